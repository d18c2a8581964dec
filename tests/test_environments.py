"""What `make` sets up: versions known to work together, and a device that stays small and knows no torch."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DEVICE_PYTHON = ROOT / ".venv-device" / "bin" / "python"
LARGEST_DEVICE_BYTES = 330_000_000
NEVER_ON_A_DEVICE = ("torch", "timm", "onnx", "executorch", "flwr", "ray", "sklearn", "matplotlib")
KNOWN_TOGETHER = {
    "torch": "2.14.1",
    "torchvision": "0.29.1",
    "torchaudio": "2.11.0",
    "timm": "1.0.31",
    "executorch": "1.5.1",
    "onnx": "1.23.2",
    "onnxscript": "0.7.2",
    "onnxruntime": "1.31.1",
    "flwr": "1.41.0",
    "protobuf": "6.33.6",
    "ray": "2.55.1",
}


def test_the_constraints_name_the_versions_known_to_work_together() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert {name: pinned[name] for name in KNOWN_TOGETHER} == KNOWN_TOGETHER


@pytest.mark.parametrize("package", KNOWN_TOGETHER)
def test_what_is_installed_here_is_what_the_constraints_name(package: str) -> None:
    assert version(package) == KNOWN_TOGETHER[package]


@pytest.mark.slow
def test_the_device_environment_is_small() -> None:
    files = (path for path in DEVICE_PYTHON.parents[1].rglob("*") if path.is_file() and not path.is_symlink())
    assert sum(path.stat().st_size for path in files) <= LARGEST_DEVICE_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("package", NEVER_ON_A_DEVICE)
def test_the_device_environment_cannot_import_what_a_device_never_has(package: str) -> None:
    done = subprocess.run([DEVICE_PYTHON, "-c", f"import {package}"], capture_output=True, text=True, check=False)
    assert re.search(rf"No module named '{package}'", done.stderr), done


@pytest.mark.slow
def test_an_export_in_the_device_environment_names_the_extra_it_needs() -> None:
    done = subprocess.run([DEVICE_PYTHON, "-m", "edgefl", "export"], capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert "pip install 'edgefl[export]'" in done.stderr


@pytest.mark.slow
def test_help_in_the_device_environment_lists_every_command() -> None:
    done = subprocess.run([DEVICE_PYTHON, "-m", "edgefl", "--help"], capture_output=True, text=True, check=True)
    listed = re.findall(r"^  (\w+)  ", done.stdout, re.MULTILINE)
    answering = {"calibrate", "personalize", "predict", "serve"}
    assert set(listed) == answering | {"client", "demo", "export", "measure", "plan", "run", "selftest", "server"}
