"""SGD and AdamW over the elements a step reached, and over no others."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from edgefl.core.tensor_slice import TensorSlice
from edgefl.runtime.optimizer import AdamW, Sgd
from tests.golden.make_optimizer import FILE, text

CASES = json.loads(FILE.read_text(encoding="utf-8"))
WHOLE = [TensorSlice("w")]
FIRST_ROW = [TensorSlice("w", ((0, 1),))]


def arrays(values: dict[str, Any]) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    return {name: np.array(value, np.float32) for name, value in values.items()}


def of(settings: dict[str, Any]) -> Sgd | AdamW:
    options = {name: value for name, value in settings.items() if name not in {"optimizer", "values", "steps"}}
    return Sgd(**options) if settings["optimizer"] == "sgd" else AdamW(**options)


def test_the_golden_file_is_what_its_generator_writes() -> None:
    assert FILE.read_text(encoding="utf-8") == text()


@pytest.mark.parametrize("case", CASES, ids=["sgd", "sgd with momentum", "adamw", "adamw with decay"])
def test_each_step_lands_where_the_golden_file_says(case: dict[str, Any]) -> None:
    optimizer, values = of(case), arrays(case["values"])

    for number, step in enumerate(case["steps"]):
        before = {name: np.array(array) for name, array in values.items()}
        optimizer.step(values, arrays(step["gradients"]), [TensorSlice.parse(key) for key in step["coverage"]])

        for name, expected in arrays(step["values"]).items():
            np.testing.assert_allclose(values[name], expected, rtol=2e-6, atol=2e-7, err_msg=f"{name}, step {number}")
        uncovered = {"positions": np.ones(4, bool), "norm": np.ones(1, bool)}
        for part in map(TensorSlice.parse, step["coverage"]):
            uncovered[part.name][part.index] = False
        for name, rows in uncovered.items():
            assert np.array_equal(values[name][rows], before[name][rows])


def test_sgd_adds_up_its_velocity() -> None:
    values, gradients = arrays({"w": [[1.0]]}), arrays({"w": [[2.0]]})
    optimizer = Sgd(learning_rate=0.1, momentum=0.5)

    optimizer.step(values, gradients, WHOLE)
    assert values["w"].item() == pytest.approx(0.8)  # v = 2;         1   - 0.1 * 2

    optimizer.step(values, gradients, WHOLE)
    assert values["w"].item() == pytest.approx(0.5)  # v = 1 + 2 = 3; 0.8 - 0.1 * 3


def test_adamw_s_first_step_is_the_learning_rate_whatever_the_gradient_s_size() -> None:
    values = arrays({"w": [[1.0, 1.0, 1.0]]})

    AdamW(learning_rate=0.1).step(values, arrays({"w": [[1e-3, -5.0, 0.0]]}), WHOLE)

    # m / (1 - b1) = g and v / (1 - b2) = g * g after one step, so the step is 0.1 * g / |g|; none where g is 0.
    np.testing.assert_allclose(values["w"], [[0.9, 1.1, 1.0]], rtol=1e-4)


def test_adamw_decays_the_value_and_not_the_gradient() -> None:
    values = arrays({"w": [[2.0]]})

    AdamW(learning_rate=0.1, weight_decay=0.5).step(values, arrays({"w": [[3.0]]}), WHOLE)

    assert values["w"].item() == pytest.approx(1.8)  # 2 * (1 - 0.1 * 0.5) - 0.1


def test_a_row_reached_late_takes_a_first_step_of_its_own() -> None:
    values, gradients = arrays({"w": [[0.0], [0.0]]}), arrays({"w": [[1.0], [1.0]]})
    optimizer = AdamW(learning_rate=0.1)

    for _ in range(5):
        optimizer.step(values, gradients, FIRST_ROW)
    optimizer.step(values, gradients, [TensorSlice("w", ((1, 2),))])

    assert values["w"][1].item() == pytest.approx(-0.1, rel=1e-4)


@pytest.mark.parametrize(
    "fresh", [partial(Sgd, learning_rate=0.1, momentum=0.9), partial(AdamW, learning_rate=0.1, weight_decay=0.5)]
)
def test_an_uncovered_row_keeps_value_and_state_though_momentum_and_decay_are_on(
    fresh: Callable[[], Sgd | AdamW],
) -> None:
    values, gradients = arrays({"w": [[1.0], [1.0]]}), arrays({"w": [[1.0], [1.0]]})
    optimizer = fresh()
    optimizer.step(values, gradients, WHOLE)
    after_one = values["w"][1].item()
    for _ in range(3):
        optimizer.step(values, gradients, FIRST_ROW)
    assert values["w"][1].item() == after_one

    optimizer.step(values, gradients, [TensorSlice("w", ((1, 2),))])

    # Row 1 has taken two steps with a pause between them; without the pause it would be at the same place.
    without_pause, optimizer = arrays({"w": [[1.0], [1.0]]}), fresh()
    for _ in range(2):
        optimizer.step(without_pause, gradients, WHOLE)
    assert values["w"][1].item() == without_pause["w"][1].item()


def test_arrays_are_changed_in_place() -> None:
    values = arrays({"w": [[1.0]]})
    array = values["w"]

    Sgd(learning_rate=1.0).step(values, arrays({"w": [[1.0]]}), WHOLE)

    assert array.item() == 0.0


def test_adamw_counts_a_row_once_however_many_parts_of_it_a_step_reaches() -> None:
    halves = [TensorSlice("w", (None, (0, 2))), TensorSlice("w", (None, (2, 4)))]
    gradients = {"w": np.full((1, 4), 0.5, np.float32)}
    whole, parted = {"w": np.zeros((1, 4), np.float32)}, {"w": np.zeros((1, 4), np.float32)}

    AdamW(learning_rate=0.1).step(whole, gradients, [TensorSlice("w")])
    AdamW(learning_rate=0.1).step(parted, gradients, halves)

    # The first step of Adam is the learning rate, whatever the gradient.
    np.testing.assert_allclose(whole["w"], -0.1, rtol=1e-6)
    np.testing.assert_array_equal(parted["w"], whole["w"])
