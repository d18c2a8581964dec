"""Where gradients add up."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgefl.core.tensor_slice import TensorSlice
from edgefl.errors import ManifestError
from edgefl.runtime.gradients import Gradients

ADAPTER = {"w": np.ones((4, 2), np.float32), "b": np.ones(3, np.float32)}


def keys(gradients: Gradients) -> list[str]:
    return [part.key for part in gradients.coverage]


def test_parts_add_up_where_they_overlap() -> None:
    gradients = Gradients(ADAPTER)

    gradients.add("w[0:3]", np.full((3, 2), 1, np.float32))
    gradients.add("w[0:2]", np.full((2, 2), 10, np.float32))
    gradients.add("b", np.full(3, 5, np.float32))

    assert gradients.arrays["w"][:, 0].tolist() == [11, 11, 1, 0]
    assert gradients.arrays["b"].tolist() == [5, 5, 5]
    assert keys(gradients) == ["w[0:3]", "b"]


def test_a_gradient_of_another_shape_is_refused_though_it_would_broadcast() -> None:
    with pytest.raises(ManifestError, match=r"the gradient of 'w\[0:3\]' has shape \(1, 2\), expected \(3, 2\)"):
        Gradients(ADAPTER).add("w[0:3]", np.ones((1, 2), np.float32))


def test_the_norm_is_over_all_tensors() -> None:
    gradients = Gradients(ADAPTER)
    gradients.add("b", np.array([2, 3, 6], np.float32))  # norm 7
    gradients.add("w[1:2]", np.array([[0, 24]], np.float32))

    assert gradients.norm() == 25.0  # 7 * 7 + 24 * 24 = 625

    gradients.scale(0.5)
    assert math.isclose(gradients.norm(), 12.5)
    assert gradients.arrays["b"].tolist() == [1, 1.5, 3]


def test_a_cleared_buffer_has_neither_values_nor_coverage_and_is_the_same_memory() -> None:
    gradients = Gradients(ADAPTER)
    array = gradients.arrays["w"]
    gradients.add("w[1:3]", np.ones((2, 2), np.float32))

    gradients.clear()

    assert gradients.arrays["w"] is array
    assert not array.any()
    assert keys(gradients) == []


def test_the_adapter_itself_is_no_buffer() -> None:
    gradients = Gradients(ADAPTER)
    gradients.add("b", np.ones(3, np.float32))

    assert ADAPTER["b"].tolist() == [1, 1, 1]


def test_with_momentum_the_sums_are_sgds_velocity() -> None:
    random = np.random.default_rng(0)
    # Row 3 is reached by the first and the last step only: its velocity decays once, as in torch.
    steps = [["w", "b"], ["w[0:3]", "b"], ["w"]]
    shapes = {"w": (4, 2), "w[0:3]": (3, 2), "b": (3,)}
    velocity = Gradients(ADAPTER, momentum=0.9)
    expected = {name: np.zeros(array.shape) for name, array in ADAPTER.items()}
    for step in steps:
        velocity.clear()
        for key in step:
            part = TensorSlice.parse(key)
            halves = random.standard_normal((2, *shapes[key])).astype(np.float32)
            for half in halves:
                velocity.add(key, half)
            view = expected[part.name][part.index]
            view[...] = 0.9 * view + halves.astype(np.float64).sum(0)  # v = momentum * v + g
            np.testing.assert_allclose(velocity.arrays[part.name][part.index], view, rtol=1e-6, atol=1e-6)


def test_a_cleared_buffer_forgets_what_was_not_finite() -> None:
    gradients = Gradients(ADAPTER)
    gradients.add("b", np.array([np.nan, np.inf, 1], np.float32))

    gradients.clear()

    assert gradients.arrays["b"].tolist() == [0, 0, 0]
