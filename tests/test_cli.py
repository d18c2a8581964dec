"""What the command line answers when something is wrong: one line on standard error and an exit code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from edgefl import __version__
from edgefl.cli import main
from edgefl.core.atomic import write_atomically
from edgefl.core.tensors import TensorFile, encode_tensors
from tests.golden_bundle import GOLDEN, random_samples, trained_model

# An interpreter in which a module is not installed, whatever is installed where the tests run.
WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from edgefl.cli import main
main(sys.argv[1:])
"""


def edgefl(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code and what it wrote."""
    code: object = 0
    try:
        main(list(arguments))
    except SystemExit as end:
        code = end.code
    assert isinstance(code, int)
    return code, *capsys.readouterr()


def samples_file(folder: Path) -> Path:
    samples, labels = random_samples(3)
    path = folder / "in.safetensors"
    write_atomically(path, encode_tensors({"samples": samples, "labels": labels}))
    return path


def test_a_path_that_is_no_bundle_ends_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = edgefl(capsys, "measure", str(tmp_path))

    assert code == 3
    assert out == ""
    assert err == f"edgefl: {tmp_path} is no bundle: it has no manifest.json; make one with `edgefl export`\n"


def test_an_unknown_program_ends_with_3_and_names_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--inputs", str(samples_file(tmp_path)), "--outputs", str(tmp_path / "out.safetensors")]

    code, _, err = edgefl(capsys, "run", str(GOLDEN), "--program", "train/12", *files)

    assert code == 3
    assert "no program 'train/12'" in err
    assert "train/2" in err
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(("exits", "value"), [("0-12", "exit 3, 4"), ("5-2", "5-2"), ("a", "'a'"), ("7", "exit 7")])
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_exits_that_are_none_end_with_3_and_are_named(
    capsys: pytest.CaptureFixture[str], exits: str, value: str, mode: str
) -> None:
    code, _, err = edgefl(capsys, "measure", str(GOLDEN), "--exits", exits, "--mode", mode)

    assert code == 3
    assert err.startswith("edgefl: exit")
    assert value in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["--fast"],
        ["measure"],
        ["measure", "x", "--mode", "sleep"],
        ["measure", "x", "--repetitions", "0"],
        ["run", "x"],
        [],
    ],
)
def test_wrong_usage_ends_with_2_and_the_right_one(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, out, err = edgefl(capsys, *arguments)

    assert code == 2
    assert out == ""
    assert "Usage: edgefl" in err


def test_version_and_help_end_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert edgefl(capsys, "--version") == (0, f"edgefl, version {__version__}\n", "")

    code, out, _ = edgefl(capsys, "-h")
    assert code == 0
    assert all(f"\n  {command} " in out for command in ("client", "export", "measure", "plan", "run", "server"))


def test_a_program_is_run_on_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = tmp_path / "out.safetensors"
    model = trained_model()
    model.use_adapter(model.bundle.adapter().tensors)
    inputs = TensorFile(samples_file(tmp_path))

    code, out, _ = edgefl(
        capsys, "run", str(GOLDEN), "--program", "train/1", "--inputs", str(inputs.path), "--outputs", str(outputs)
    )

    assert code == 0
    assert "loss  float32  scalar\n" in out
    assert "accumulator.positions  float32  5x24\n" in out
    loss, gradients = model.train_step(inputs["samples"], inputs["labels"], 1)
    found = TensorFile(outputs).arrays()
    assert found.pop("loss") == np.float32(loss)
    assert {name: array.tolist() for name, array in found.items()} == {n: g.tolist() for n, g in gradients.items()}


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("torch", "export", ["export", "--out", "nowhere"]),
        ("torch", "export", ["plan", "--model", "deit_small_patch16_224"]),
        ("matplotlib", "plot", ["measure", str(GOLDEN), "--plot", "picture.png"]),
    ],
)
def test_a_missing_extra_ends_with_6_and_the_command_that_installs_it(
    tmp_path: Path, module: str, extra: str, arguments: list[str]
) -> None:
    command = [sys.executable, "-c", WITHOUT.format(module=module), *arguments]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 6
    # Where the tests run without the extra, another of its modules may be missed first.
    assert re.fullmatch(rf"edgefl: \w+ is not installed here: pip install 'edgefl\[{extra}\]'\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_part_of_edgefl_itself_is_no_missing_extra() -> None:
    command = [sys.executable, "-c", WITHOUT.format(module="msgspec"), "measure", str(GOLDEN)]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'msgspec'" in done.stderr


def test_an_interrupt_ends_with_130_and_leaves_no_process() -> None:
    command = [sys.executable, "-m", "edgefl", "measure", str(GOLDEN), "--exits", "2", "--repetitions", "1000000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            measuring = psutil.Process(process.pid)
            _wait_until(lambda: bool(measuring.children()))
            children = measuring.children()
            os.kill(process.pid, signal.SIGINT)
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()  # where ctrl-C is ignored the test fails, and does not wait for ever

    assert process.returncode == 130
    assert err.endswith(b"edgefl: interrupted\n")
    _wait_until(lambda: all(_has_ended(child) for child in children))


def _has_ended(process: psutil.Process) -> bool:
    """Say whether a process has ended; nobody may be there to take note of it, so it may still be listed."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _wait_until(condition: Callable[[], bool]) -> None:
    """Wait until something is so, for at most half a minute."""
    pause, deadline = threading.Event(), time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.01)
