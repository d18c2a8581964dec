"""Federated learning and anytime inference on devices people really have.

    model = edgefl.load("bundle")
    for prediction in model.infer(image):
        print(prediction.exit_index, prediction.labels, prediction.confidence)
    loss, gradients = model.train_step(samples, labels, exit_index=5)

`import edgefl` itself loads nothing but the version: each name below brings its module when it is first used
(PEP 562), so that commands and processes that need no model stay small.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from edgefl.version import __version__

if TYPE_CHECKING:
    from edgefl.bundle import Adapter, Bundle
    from edgefl.runtime.model import Model, load
    from edgefl.runtime.prediction import Prediction

__all__ = ["Adapter", "Bundle", "Model", "Prediction", "__version__", "load"]

_HOME = {
    "Adapter": "edgefl.bundle",
    "Bundle": "edgefl.bundle",
    "Model": "edgefl.runtime.model",
    "Prediction": "edgefl.runtime.prediction",
    "load": "edgefl.runtime.model",
}


def __getattr__(name: str) -> object:
    """Import the module of a public name at its first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'edgefl' has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, those not imported yet included."""
    return sorted(__all__)
