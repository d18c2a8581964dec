"""What one call holds in memory, worked out by hand for small graphs."""

from __future__ import annotations

import msgspec
import onnx
from onnx import TensorProto, helper

from edgefl.bundle.program import Call, Input, Program
from edgefl_export.call_facts import read_facts
from edgefl_export.costs import Counter

WIDE, NARROW = 4 * 6 * 8, 4 * 6 * 2  # bytes of float32 (6, 8) and (6, 2)


def graph(nodes: list[tuple[str, list[str], str]], inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    """Return a graph of named operators over float32 matrices of any size."""
    made = [
        helper.make_node(kind, read, [name], **({"perm": [1, 0]} if kind == "Transpose" else {}))
        for kind, read, name in nodes
    ]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name}0", f"{name}1"]) for name in inputs]
    answered = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(helper.make_graph(made, "graph", given, answered), opset_imports=opset)


def test_a_product_holds_its_output_and_counts_its_multiplications() -> None:
    facts = read_facts(graph([("MatMul", ["a", "w"], "y")], ["a", "w"], ["y"]), {"a": (6, 8), "w": (8, 2)})
    assert (facts.shapes, facts.outputs) == (((6, 2),), (NARROW,))
    assert facts.macs == 6 * 8 * 2
    assert facts.working_bytes == NARROW


def test_a_transposed_operand_of_a_product_is_never_made() -> None:
    nodes = [("Transpose", ["w"], "t"), ("MatMul", ["a", "t"], "y")]
    facts = read_facts(graph(nodes, ["a", "w"], ["y"]), {"a": (6, 8), "w": (2, 8)})
    assert facts.working_bytes == NARROW


def test_a_transposed_matrix_that_is_read_otherwise_is_made() -> None:
    nodes = [("Transpose", ["w"], "t"), ("MatMul", ["a", "t"], "y"), ("Exp", ["t"], "z")]
    facts = read_facts(graph(nodes, ["a", "w"], ["y", "z"]), {"a": (6, 8), "w": (2, 8)})
    # The transposed one, the product and the exponential.
    assert facts.working_bytes == 2 * 4 * 2 * 8 + NARROW


def test_a_softmax_is_written_over_what_nobody_reads_any_more_but_never_over_an_input() -> None:
    nodes = [("Exp", ["a"], "b"), ("Softmax", ["b"], "c"), ("MatMul", ["c", "w"], "d")]
    model = graph(nodes, ["a", "w"], ["d"])
    assert read_facts(model, {"a": (6, 8), "w": (8, 2)}).working_bytes == WIDE + NARROW
    # Here b is read once more.
    nodes = [("Exp", ["a"], "b"), ("Softmax", ["b"], "c"), ("Mul", ["c", "b"], "d")]
    assert read_facts(graph(nodes, ["a"], ["d"]), {"a": (6, 8)}).working_bytes == 3 * WIDE
    assert read_facts(graph([("Softmax", ["a"], "b")], ["a"], ["b"]), {"a": (6, 8)}).working_bytes == WIDE


def test_other_elementwise_operators_have_memory_of_their_own() -> None:
    nodes = [("Exp", ["a"], "b"), ("Erf", ["b"], "c"), ("Mul", ["c", "a"], "d")]
    # c beside b, then beside d.
    assert read_facts(graph(nodes, ["a"], ["d"]), {"a": (6, 8)}).working_bytes == 2 * WIDE


def test_an_output_stays_while_the_rest_is_computed() -> None:
    nodes = [("Exp", ["a"], "b"), ("Erf", ["b"], "c"), ("MatMul", ["c", "w"], "d")]
    model = graph(nodes, ["a", "w"], ["b", "d"])
    assert read_facts(model, {"a": (6, 8), "w": (8, 2)}).working_bytes == 2 * WIDE + NARROW


def test_an_output_that_is_a_view_keeps_what_it_views() -> None:
    nodes = [("Exp", ["a"], "b"), ("Identity", ["b"], "view"), ("MatMul", ["b", "w"], "c"), ("MatMul", ["c", "t"], "d")]
    model = graph(nodes, ["a", "w", "t"], ["view", "d"])
    # b lives on as `view` while c and then d are made.
    assert read_facts(model, {"a": (6, 8), "w": (8, 2), "t": (2, 8)}).working_bytes == WIDE + NARROW + WIDE


def test_a_program_s_plan_counts_what_lives_across_its_calls() -> None:
    graphs = {
        "wide": graph([("Exp", ["a"], "y")], ["a"], ["y"]),
        "product": graph([("MatMul", ["a", "b"], "y")], ["a", "b"], ["y"]),
    }
    program = Program(
        mode="infer",
        exit_index=0,
        batch=None,
        inputs={"samples": Input(dtype="float32", shape=[None, 8])},
        calls=[
            Call(graph="wide", inputs=["samples"], outputs=["first"]),
            Call(graph="wide", inputs=["first"], outputs=["second"]),
            Call(graph="product", inputs=["second", "w"], outputs=["logits"]),
        ],
        outputs={"logits": ["logits"]},
    )
    counter = Counter(graphs, {"w": (8, 2)}, {"w": (8, 2)})
    # While the second call runs: samples, first and second.  Stored tensors are mapped and do not count.
    assert counter.cost(msgspec.structs.replace(program, batch=6)).planned_bytes == 3 * WIDE
    assert counter.cost(msgspec.structs.replace(program, batch=12)).planned_bytes == 6 * WIDE
    assert (counter.cost(program).macs, counter.cost(program).parameters) == (8 * 2, 16)
