"""The graphs that make a linear layer's gradient, in onnxruntime against numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgefl.runtime.sessions import open_session
from edgefl_export.graphs.rows import rows_graph, stack_name


def run(name: str, folder: Path, *arrays: np.ndarray) -> list[np.ndarray]:  # type: ignore[type-arg]
    model = rows_graph(name)
    assert model is not None
    onnx.save(model, folder / "graph.onnx")
    session = open_session(folder / "graph.onnx")
    inputs = [value.name for value in session.get_inputs()]
    return list(session.run(None, dict(zip(inputs, arrays, strict=True))))


@pytest.mark.parametrize("rows", [1, 5])
def test_a_linear_layer_s_gradient_is_summed_over_its_rows(tmp_path: Path, rows: int) -> None:
    random = np.random.default_rng(rows)
    gradient, x = (random.standard_normal((rows, size), np.float32) for size in (3, 4))
    weight, bias = run("linear_gradient", tmp_path, gradient, x)
    np.testing.assert_allclose(weight, gradient.T @ x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(bias, gradient.sum(0), rtol=1e-5, atol=1e-6)


def test_rows_are_put_under_each_other_in_their_order(tmp_path: Path) -> None:
    parts = [np.full((rows, 2), rows, np.float32) for rows in (2, 1, 3)]
    (stacked,) = run(stack_name(3), tmp_path, *parts)
    assert stacked[:, 0].tolist() == [2, 2, 1, 3, 3, 3]


def test_other_names_are_none_of_these_graphs() -> None:
    assert rows_graph("block") is None
