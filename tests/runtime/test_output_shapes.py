"""Output shapes worked out before a graph runs."""

from __future__ import annotations

import numpy as np
import pytest

from edgefl.bundle import Bundle
from edgefl.runtime.output_shapes import resolve_shapes
from edgefl.runtime.sessions import open_session
from tests.golden_bundle import GOLDEN


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ([7, "batch"], (7, 3)),
        (["2*batch", "tokens + 1"], (6, 6)),
        (["batch + tokens + 2*batch*tokens"], (3 + 5 + 2 * 3 * 5,)),
        ([], ()),
        (["batch", None], None),
        (["other"], None),
        (["batch - 1"], None),
        (["(batch + 1)*2"], None),
        (["9" * 5000], None),
        (["9" * 10], None),
    ],
)
def test_lengths_are_sums_of_products_of_the_inputs_lengths(
    declared: list[int | str | None], expected: tuple[int, ...] | None
) -> None:
    inputs: list[list[int | str]] = [["batch", 4, "tokens"], ["rows"]]
    assert resolve_shapes(inputs, [(3, 4, 5), None], {"y": declared}) == {"y": expected}


def test_every_shape_of_the_golden_bundles_training_graphs_is_known_and_right() -> None:
    bundle = Bundle(GOLDEN)
    sizes = {"batch": 3, "tokens": 2, "tokens + 1": 3, "rows": 4, "in": 5, "out": 6, "size": 2}
    graphs = {call.graph for name in ("train/2", "train/2/lean") for call in bundle.program(name).calls}
    for graph in graphs:
        session = open_session(bundle.path(bundle.manifest.graphs[graph].file))
        declared = [node.shape for node in session.get_inputs()]
        # A stack has as many rows of each part as it likes.
        given = [tuple(sizes.get(d, 2) if isinstance(d, str) else d for d in shape) for shape in declared]
        types = [np.float32 if node.type == "tensor(float)" else np.int64 for node in session.get_inputs()]
        feeds = {
            node.name: np.zeros(shape, dtype)
            for node, shape, dtype in zip(session.get_inputs(), given, types, strict=True)
        }
        made = session.run(None, feeds)
        outputs = {node.name: node.shape for node in session.get_outputs()}
        assert list(resolve_shapes(declared, given, outputs).values()) == [array.shape for array in made], graph
