"""Make tests/golden/optimizer.json again: `python -m tests.golden.make_optimizer`.

The optimizers that Python and Kotlin share, written out for one number at a time in double precision, straight from
their definitions.  Each case holds starting values, and for each step the gradient, the keys it covers and the values
afterwards.  An element outside the coverage keeps its value and its state: its own momentum, averages and step count.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from edgefl.core.tensor_slice import TensorSlice

FILE = Path(__file__).parent / "optimizer.json"
TENSORS = {"positions": 4, "norm": 1}
COLUMNS = 3
COVERAGES = (["positions[0:2]", "norm"], ["positions"], ["positions[0:3]", "norm"], ["norm"], ["positions[1:4]"])
CASES: tuple[dict[str, Any], ...] = (
    {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.0},
    {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9},
    {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8},
    {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8},
)


class Element:
    """One number with its own optimizer state."""

    def __init__(self, value: float, settings: dict[str, Any]) -> None:
        self.value, self.settings = value, settings
        self.velocity = self.first = self.second = 0.0
        self.steps = 0

    def move(self, gradient: float) -> None:
        """Take one step."""
        rate = self.settings["learning_rate"]
        if self.settings["optimizer"] == "sgd":
            self.velocity = self.settings["momentum"] * self.velocity + gradient
            self.value -= rate * self.velocity
            return
        beta1, beta2 = self.settings["beta1"], self.settings["beta2"]
        self.steps += 1
        self.first = beta1 * self.first + (1 - beta1) * gradient
        self.second = beta2 * self.second + (1 - beta2) * gradient**2
        self.value *= 1 - rate * self.settings["weight_decay"]
        root = math.sqrt(self.second / (1 - beta2**self.steps))
        self.value -= rate * self.first / (1 - beta1**self.steps) / (root + self.settings["eps"])


def case(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with values and steps."""
    source = random.Random(0)  # noqa: S311  # numbers that anyone may guess
    draw = {name: [[source.uniform(-1, 1) for _ in range(COLUMNS)] for _ in range(n)] for name, n in TENSORS.items()}
    elements = {name: [[Element(value, settings) for value in row] for row in rows] for name, rows in draw.items()}
    steps = []
    for coverage in COVERAGES:
        gradients = {n: [[source.uniform(-1, 1) for _ in range(COLUMNS)] for _ in rows] for n, rows in draw.items()}
        for key in coverage:
            part = TensorSlice.parse(key)
            for row in range(*(part.ranges[0] or (0, 0)) if part.ranges else (0, TENSORS[part.name])):
                for element, gradient in zip(elements[part.name][row], gradients[part.name][row], strict=True):
                    element.move(gradient)
        values = {name: [[element.value for element in row] for row in rows] for name, rows in elements.items()}
        steps.append({"coverage": coverage, "gradients": gradients, "values": values})
    return settings | {"values": draw, "steps": steps}


def text() -> str:
    """Return the file's content."""
    return json.dumps([case(settings) for settings in CASES], indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
