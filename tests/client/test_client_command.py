"""`edgefl client run` as a user meets it: refusals with their exit codes, and a process that ends in order."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgefl.core.folder_lock import locked_folder
from edgefl.fleet.content import Content
from tests.client.serving import BUNDLE_ID, train_content
from tests.fleet.http_server import HttpServer
from tests.fleet.loopback_fleet import LoopbackFleet
from tests.golden_bundle import CLASSES, GOLDEN
from tests.selftest.tampered import with_golden_values
from tests.waiting import wait_until

NOBODY = "http://127.0.0.1:9"
NEVER_ON_A_DEVICE = {"torch", "timm", "onnx", "executorch", "flwr"}


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Return an image folder with one sample of each class."""
    random = np.random.default_rng(0)
    for label in range(CLASSES):
        folder = tmp_path / "samples" / str(label)
        folder.mkdir(parents=True)
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / "a.png")
    return tmp_path / "samples"


def command(samples: Path, url: str, *options: str, bundle: Path = GOLDEN) -> list[str]:
    state = samples.parent / "state"
    where = ["--server", url, "--bundle", str(bundle), "--samples", str(samples), "--state", str(state)]
    return [sys.executable, "-m", "edgefl", "client", "run", *where, "--connect-seconds", "0.2", *options]


def refusal(arguments: list[str], exit_code: int) -> str:
    """Run a command that must fail and return its one line of reason."""
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == exit_code, done.stderr
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("edgefl: ")
    return last


@contextmanager
def running(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Keep a client until the block ends."""
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_server_that_is_not_there_ends_with_5_and_what_to_do(samples: Path) -> None:
    said = refusal(command(samples, NOBODY), exit_code=5)

    assert f"no Flower server answers at {NOBODY}" in said
    assert said.endswith("start it, or pass --wait to wait for it")


def test_a_bundle_that_is_none_ends_with_3(samples: Path) -> None:
    said = refusal(command(samples, NOBODY, bundle=samples), exit_code=3)

    assert said == f"edgefl: {samples} is no bundle: it has no manifest.json; make one with `edgefl export`"
    assert not (samples.parent / "state").exists()


def test_samples_that_are_none_end_with_3(samples: Path) -> None:
    said = refusal(command(samples / "0", NOBODY), exit_code=3)

    assert "has no images; expected one subfolder for each class" in said
    assert not (samples.parent / "state").exists()


def test_an_exit_the_bundle_does_not_have_ends_with_3(samples: Path) -> None:
    said = refusal(command(samples, NOBODY, "--deepest-exit", "3"), exit_code=3)

    assert said == "edgefl: exit 3 does not exist: bundle bundle has the exits 0-2"


def test_a_device_that_computes_something_else_ends_with_4_before_the_server_is_asked(
    samples: Path, tmp_path: Path
) -> None:
    # Only what the deepest exit comes to is wrong: a client that trains no deeper than exit 1 never asks for it.
    bundle = with_golden_values(tmp_path, lambda arrays: arrays["logits_02"].__imul__(2))
    fleet = LoopbackFleet()
    with HttpServer(fleet.decide) as server:
        said = refusal(command(samples, server.url, bundle=bundle), exit_code=4)
        assert not server.asked

        assert "does not compute what the exporter computed: exit 2 logits 5.0e-01 (infer/2/balanced)" in said
        assert not (samples.parent / "state").exists()
        with running(command(samples, server.url, "--deepest-exit", "1", bundle=bundle)) as process:
            wait_until(lambda: bool(fleet.online), 60, "the client joins")
            process.terminate()
            _, err = process.communicate(timeout=60)
    assert "self-test passed at exit 0-1: within " in err


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1:1", "http://"])
def test_an_address_that_is_none_ends_with_3(samples: Path, url: str) -> None:
    assert "write http://HOST:PORT" in refusal(command(samples, url), exit_code=3)


def test_a_state_folder_in_use_ends_with_7(samples: Path) -> None:
    with locked_folder(samples.parent / "state", "client"):
        said = refusal(command(samples, NOBODY), exit_code=7)

    assert "state is in use by another edgefl client; stop that one or choose another --state" in said


def test_a_state_folder_that_cannot_be_made_ends_with_7(samples: Path) -> None:
    said = refusal(command(samples, NOBODY, "--state", str(samples / "0" / "a.png" / "state")), exit_code=7)

    assert "a.png/state: Not a directory; choose another --state" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_client_that_is_stopped_says_farewell_and_reports_what_it_did(samples: Path, number: signal.Signals) -> None:
    fleet, report = LoopbackFleet(), samples.parent / "report.json"
    with (
        HttpServer(fleet.decide) as server,
        running(command(samples, server.url, "--deepest-exit", "1", "--json", str(report))) as process,
    ):
        message_id = fleet.send(train_content(epochs=1))
        wait_until(lambda: fleet.reply_to(message_id) is not None, 60, "the client trains")
        process.send_signal(number)
        out, err = process.communicate(timeout=60)

    assert (process.returncode, out) == (0, ""), err
    assert f"joined {server.url} as node " in err
    assert fleet.online == set()
    assert isinstance(fleet.reply_to(message_id), Content)
    document = json.loads(report.read_text())
    settings = document["settings"]
    assert (settings["pid"], settings["exit"], settings["bundle"]) == (process.pid, 1, BUNDLE_ID)
    assert NEVER_ON_A_DEVICE.isdisjoint(settings["modules"])
    assert {"edgefl", "numpy", "onnxruntime"} <= set(settings["modules"])
    records = {record["name"]: record for record in document["records"]}
    assert set(records) == {"bytes_up", "bytes_down", "feature_cache", "peak_rss", "rounds"}
    assert all(record["labels"] == {"exit": 1} for record in records.values())
    assert records["rounds"]["value"] == 1
    assert records["feature_cache"]["value"] == CLASSES * 5 * 24 * 4  # of each sample 5 tokens of width 24
    assert records["bytes_down"]["value"] > sum(array.nbytes for array in train_content().arrays.values())


def test_a_client_told_to_wait_outlasts_a_server_that_is_not_ready(samples: Path) -> None:
    fleet = LoopbackFleet(refusals={"register-node": [503, 503]})  # nobody behind the proxy
    options = ["--connect-seconds", "0", "--wait", "--json", "-"]
    with HttpServer(fleet.decide) as server, running(command(samples, server.url, *options)) as process:
        wait_until(lambda: bool(fleet.online), 60, "the client joins")
        process.terminate()
        out, _ = process.communicate(timeout=60)

    assert process.returncode == 0
    assert json.loads(out)["command"] == "client run"


def test_a_client_stopped_before_anybody_answered_ends_with_130(samples: Path) -> None:
    refused = LoopbackFleet(refusals={"register-node": [503] * 100})
    with HttpServer(refused.decide) as server, running(command(samples, server.url, "--wait")) as process:
        wait_until(lambda: len(server.asked) > 0, 60, "the client asks")
        process.terminate()
        _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("edgefl: stopped while ")
