"""What may be loaded where, in interpreters started for the purpose: devices never load a training framework."""

from __future__ import annotations

import subprocess
import sys

from tests.golden_bundle import GOLDEN

TORCH = {"torch", "torchvision", "torchaudio", "timm", "onnx", "onnxscript", "executorch"}
FOREIGN = TORCH | {"flwr", "ray", "grpc_tools"}
EXTRAS = FOREIGN | {"matplotlib", "sklearn", "safetensors", "edgefl_export", "edgefl_server"}

IMPORT_EVERYTHING = """
import pkgutil, importlib, edgefl
for module in pkgutil.walk_packages(edgefl.__path__, "edgefl."):
    if module.name != "edgefl.__main__":
        importlib.import_module(module.name)
"""

USE_A_BUNDLE = """
import numpy as np, edgefl, sys
model = edgefl.load(sys.argv[1])
images = np.zeros((2, 20, 20, 3), np.uint8)
assert len(list(model.infer(images))) == 3
model.train_step(images, np.array([0, 1]), 2)
"""

HELP = """
from edgefl.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert not end.code
"""


def loaded(script: str) -> set[str]:
    """Run a script in a fresh interpreter and return the packages it has loaded."""
    report = "\nimport sys\nprint('loaded:', *{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", script + report, str(GOLDEN)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("loaded:")[2].split())


def test_no_module_of_a_device_loads_a_framework_or_another_source_root() -> None:
    found = loaded(IMPORT_EVERYTHING)

    assert {"edgefl", "numpy", "onnxruntime", "google"} <= found
    assert found & EXTRAS == set()


def test_inference_and_training_load_no_framework() -> None:
    found = loaded(USE_A_BUNDLE)

    assert {"edgefl", "numpy", "onnxruntime"} <= found
    assert found & EXTRAS == set()


def test_help_is_shown_without_anything_heavy() -> None:
    found = loaded(HELP)

    assert {"edgefl", "click"} <= found
    assert found & (FOREIGN | {"numpy", "onnxruntime", "matplotlib", "cryptography", "google", "PIL"}) == set()
