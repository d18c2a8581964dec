"""What a user meets who gives a command something it cannot use: one line, an exit code, and nothing left behind.

Exits, models and extras are in tests/test_cli.py and tests/export/test_export_command.py.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgefl.bundle import Adapter, Bundle
from edgefl.cli import main
from edgefl.core.atomic import write_atomically
from edgefl.core.tensors import encode_tensors
from tests.golden_bundle import GOLDEN, Fields, change_manifest, copy_golden, random_samples
from tests.waiting import wait_until

Spoil = Callable[[Path], object]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Return a file with three samples."""
    path = tmp_path / "in.safetensors"
    write_atomically(path, encode_tensors({"samples": random_samples(3)[0]}))
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """Run a command that must fail; return its exit code and the one line it says."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("edgefl: ")
    assert err.count("\n") == 1
    assert isinstance(end.value.code, int)
    return end.value.code, err


def change_a_byte(bundle: Path) -> None:
    path = bundle / "block.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def write_for_a_later_edgefl(bundle: Path) -> None:
    change_manifest(bundle, lambda fields: fields.update(schema="edgefl.bundle/2"))


def point_outside(bundle: Path) -> None:
    def change(fields: Fields) -> None:
        fields["files"]["../block.onnx"] = fields["files"].pop("block.onnx")

    change_manifest(bundle, change)


def link_outside(bundle: Path) -> None:
    outside = bundle.parent / "elsewhere.json"
    (bundle / "manifest.json").rename(outside)
    (bundle / "manifest.json").symlink_to(outside)


def claim_a_very_long_version(bundle: Path) -> None:
    change_manifest(bundle, lambda fields: fields.update(schema="edgefl.bundle/" + "1" * 5000))


@pytest.mark.parametrize("command", ["measure", "plan", "calibrate", "personalize", "run", "client", "server"])
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (change_a_byte, "block.onnx is not the file that was exported: its sha256 differs; copy the bundle again"),
        (lambda bundle: (bundle / "embed.onnx").unlink(), "has no file 'embed.onnx', its manifest names it; copy"),
        (lambda bundle: (bundle / "manifest.json").unlink(), "is no bundle: it has no manifest.json; make one with"),
        (lambda bundle: (bundle / "manifest.json").write_text("{"), "manifest"),
        (write_for_a_later_edgefl, "edgefl.bundle/2"),
        (point_outside, "../block.onnx"),
        (link_outside, "manifest.json leads outside"),
        (claim_a_very_long_version, f"manifest.json has schema 'edgefl.bundle/{'1' * 46}', expected edgefl.bundle/1"),
    ],
    ids=[
        "a changed byte",
        "a missing file",
        "no manifest",
        "half a manifest",
        "a later version",
        "a path outside",
        "a link outside",
        "an endless version",
    ],
)
def test_every_command_refuses_a_bundle_it_cannot_trust(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], inputs: Path, command: str, spoil: Spoil, reason: str
) -> None:
    bundle = copy_golden(tmp_path)
    spoil(bundle)
    state, outputs = tmp_path / "state", tmp_path / "out.safetensors"
    arguments: dict[str, list[str | Path]] = {
        "measure": [bundle],
        "plan": [bundle],
        "calibrate": [bundle, "--samples", "."],
        "personalize": [bundle, "--samples", "."],
        "run": [bundle, "--program", "infer/0", "--inputs", inputs, "--outputs", outputs],
        "client": ["run", "--server", "http://127.0.0.1:9", "--bundle", bundle, "--samples", ".", "--state", state],
        "server": ["run", "--bundle", bundle, "--rounds", "1", "--state", state, "--port", "0"],
    }

    code, said = refused(capsys, command, *arguments[command])

    assert code == 3
    assert reason in said
    assert not state.exists()
    assert not outputs.exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_adapter_with_values_that_are_no_numbers_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], inputs: Path, value: float
) -> None:
    bundle = Bundle(GOLDEN)
    tensors = {name: np.array(array) for name, array in bundle.adapter().tensors.items()}
    tensors["head.mlp.fc2.bias"][2] = value
    adapter = Adapter(bundle_id=bundle.manifest.bundle_id, version=1, round=1, tensors=tensors)
    adapter.save(tmp_path / "adapter.safetensors", bundle.manifest.adapter.header_bytes)
    files: list[str | Path] = ["--inputs", inputs, "--outputs", tmp_path / "out.safetensors"]

    code, said = refused(
        capsys, "run", GOLDEN, "--program", "infer/0", "--adapter", tmp_path / "adapter.safetensors", *files
    )

    assert code == 3
    assert "tensor 'head.mlp.fc2.bias' has NaN or infinite values; use an earlier adapter" in said
    assert not (tmp_path / "out.safetensors").exists()


def test_a_number_of_threads_that_is_none_is_refused_by_its_name(tmp_path: Path, inputs: Path) -> None:
    outputs = tmp_path / "out.safetensors"
    options = ["--program", "infer/0", "--inputs", str(inputs), "--outputs", str(outputs)]
    command = [sys.executable, "-m", "edgefl", "run", str(GOLDEN), *options]

    done = subprocess.run(
        command, env=os.environ | {"EDGEFL_THREADS": "abc"}, capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 3
    assert done.stderr == "edgefl: EDGEFL_THREADS is 'abc', expected a number of threads from 1 to 1024\n"
    assert not outputs.exists()


def test_an_output_below_a_regular_file_ends_with_7(capsys: pytest.CaptureFixture[str], inputs: Path) -> None:
    files: list[str | Path] = ["--inputs", inputs, "--outputs", inputs / "out.safetensors"]

    code, said = refused(capsys, "run", GOLDEN, "--program", "infer/0", *files)

    assert code == 7
    assert f"cannot write {inputs / 'out.safetensors'}: {inputs} is no folder; make it, or choose another one" in said


@pytest.mark.parametrize("option", ["--json", "--plot"])
@pytest.mark.parametrize(("name", "reason"), [("missing/out.png", "is no folder"), ("", "is no regular file")])
def test_a_report_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, name: str, reason: str
) -> None:
    folder = tmp_path / "folder.png"
    folder.mkdir()

    # A bundle that does not exist either: measuring had not begun.
    code, said = refused(capsys, "measure", tmp_path / "no-bundle", option, folder / name)

    assert code == 7
    assert reason in said


def test_a_picture_of_an_unknown_format_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = refused(capsys, "measure", tmp_path / "no-bundle", "--plot", tmp_path / "picture.foo")

    assert code == 3
    assert "has no ending of .pdf, .png, .svg; name the file accordingly" in said


@pytest.mark.parametrize("option", ["--inputs", "--adapter"])
@pytest.mark.parametrize("name", ["missing", "."])
def test_a_file_that_is_not_there_ends_with_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], inputs: Path, option: str, name: str
) -> None:
    files: dict[str, Path] = {"--inputs": inputs, "--outputs": tmp_path / "out.safetensors", option: tmp_path / name}
    options = [part for pair in files.items() for part in pair]

    code, said = refused(capsys, "run", GOLDEN, "--program", "infer/0", *options)

    assert code == 3
    assert f"{tmp_path / name} is no file: " in said
    assert not (tmp_path / "out.safetensors").exists()


def test_a_server_s_state_below_a_regular_file_ends_with_7(capsys: pytest.CaptureFixture[str], inputs: Path) -> None:
    state = inputs / "state"

    code, said = refused(capsys, "server", "run", "--bundle", GOLDEN, "--rounds", "1", "--state", state, "--port", "0")

    assert code == 7
    assert f"cannot use {state}: Not a directory; choose another --state" in said


@pytest.mark.parametrize("port", ["in use", "70000", "-1"])
def test_a_port_that_cannot_be_had_ends_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str], port: str) -> None:
    state = tmp_path / "state"
    with socket.create_server(("127.0.0.1", 0)) as other:
        asked = str(other.getsockname()[1]) if port == "in use" else port
        options: list[str | Path] = ["--bundle", GOLDEN, "--rounds", "1", "--state", state, "--port", asked]
        code, said = refused(capsys, "server", "run", *options)

    assert code == 3
    assert f"--port {asked} on 127.0.0.1 cannot be used: " in said
    assert "choose another one, or 0 for any that is free" in said
    assert not state.exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_a_server_with_130_and_one_line(tmp_path: Path, number: signal.Signals) -> None:
    options = ["--bundle", str(GOLDEN), "--rounds", "1", "--state", str(tmp_path / "state"), "--port", "0"]
    command = [sys.executable, "-m", "edgefl", "server", "run", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            log = tmp_path / "state" / "server.log"
            wait_until(lambda: log.exists() and "waiting for clients" in log.read_text(), 120, "it waits for clients")
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()

    assert process.returncode == 130
    assert err.splitlines()[-1] == "edgefl: interrupted"
