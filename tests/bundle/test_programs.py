"""What makes a program runnable, on the smallest bundle that has one."""

from __future__ import annotations

import pytest

from edgefl.bundle.program import Call, Graph, Input, Program, check_answers, check_program
from edgefl.errors import ManifestError

GRAPHS = {"double": Graph(file="double.onnx", inputs=["x", "w"], outputs=["y", "z"])}
SHAPES = {"weight": [4, 3]}
SAMPLES = {"samples": Input(dtype="float32", shape=[None, 3])}


def program(calls: list[tuple[list[str], list[str]]], outputs: dict[str, list[str]], inputs: object = None) -> Program:
    """Return an inference program at exit 0 whose calls all run `double`."""
    return Program(
        mode="infer",
        inputs=SAMPLES if inputs is None else {str(inputs): SAMPLES["samples"]},
        calls=[Call(graph="double", inputs=given, outputs=made) for given, made in calls],
        outputs=outputs,
        exit_index=0,
        batch=None,
    )


def test_a_call_reads_inputs_weights_rows_of_weights_and_what_came_before() -> None:
    runnable = program(
        [(["samples", "weight"], ["a", ""]), (["a", "weight[1:4]"], ["", "b"]), (["b", "weight"], ["logits", ""])],
        {"logits": ["logits"]},
    )

    check_program("infer/0", runnable, GRAPHS, SHAPES)
    check_answers("infer/0", runnable, [0])


@pytest.mark.parametrize(
    ("calls", "fault"),
    [
        ([(["samples", "wight"], ["a", ""])], "call 0 reads 'wight', which nothing before it makes"),
        ([(["a", "weight"], ["a", ""])], "call 0 reads 'a', which nothing before it makes"),
        ([(["samples", "weight[0:5]"], ["a", ""])], r"call 0: 'weight\[0:5\]' reaches outside"),
        ([(["samples", "weight[0]"], ["a", ""])], r"call 0: 'weight\[0\]': '0' is no range"),
        ([(["samples", "weight[:,0:1]"], ["a", ""])], "only rows of a tensor can be read"),
        ([(["samples"], ["a", ""])], "call 0 does not fit the inputs and outputs of graph 'double'"),
        ([(["samples", "weight"], ["a"])], "call 0 does not fit"),
        ([(["samples", "weight"], ["a", "a"])], "call 0 makes 'a' a second time"),
        ([(["samples", "weight"], ["a", ""]), (["a", "weight"], ["a", ""])], "call 1 makes 'a' a second time"),
        ([(["samples", "weight"], ["samples", ""])], "makes 'samples' a second time"),
        ([(["samples", "weight"], ["weight", ""])], "makes 'weight' a second time"),
        ([(["samples", "weight"], ["weight[0:1]", ""])], "makes 'weight"),
    ],
)
def test_a_call_that_cannot_run_is_refused_with_its_place(calls: list[tuple[list[str], list[str]]], fault: str) -> None:
    with pytest.raises(ManifestError, match=fault):
        check_program("infer/0", program(calls, {}), GRAPHS, SHAPES)


def test_a_graph_the_bundle_does_not_have_is_refused_by_its_name() -> None:
    with pytest.raises(ManifestError, match="call 0 runs graph 'double', which the bundle does not have"):
        check_program("infer/0", program([(["samples", "weight"], ["a", ""])], {}), {}, SHAPES)


def test_an_input_that_hides_a_weight_is_refused() -> None:
    with pytest.raises(ManifestError, match="has an input 'weight'"):
        check_program("infer/0", program([], {}, inputs="weight"), GRAPHS, SHAPES)


@pytest.mark.parametrize("parts", [["b"], ["a", "b"], ["weight"], ["samples"], []])
def test_an_answer_comes_from_what_calls_make_and_from_nothing_else(parts: list[str]) -> None:
    with pytest.raises(ManifestError, match="answers 'logits' from"):
        check_program("infer/0", program([(["samples", "weight"], ["a", ""])], {"logits": parts}), GRAPHS, SHAPES)


@pytest.mark.parametrize(
    ("name", "mode", "exit_index", "outputs"),
    [
        ("infer/2", "infer", 2, {"logits": ["a"]}),
        ("preprocess", "preprocess", None, {"samples": ["a"]}),
        ("anytime", "anytime", 2, {"logits_00": ["a"], "logits_02": ["b"]}),
        ("train/0", "train", 0, {"loss": ["a"], "weight": ["b", "c"]}),
        ("train/0/lean", "train", 0, {"loss": ["a"]}),
    ],
)
def test_a_program_answers_what_its_name_promises(
    name: str, mode: str, exit_index: int | None, outputs: dict[str, list[str]]
) -> None:
    check_answers(name, _answering(mode, exit_index, outputs), [0, 2])


@pytest.mark.parametrize(
    ("name", "mode", "exit_index", "outputs"),
    [
        ("infer/2", "train", 2, {"loss": ["a"]}),  # another mode
        ("infer/1", "infer", 2, {"logits": ["a"]}),  # another exit
        ("infer/22", "infer", 2, {"logits": ["a"]}),
        ("infer/1", "infer", 1, {"logits": ["a"]}),  # no exit of the bundle
        ("infer/None", "infer", None, {"logits": ["a"]}),
        ("infer/2", "infer", 2, {"logits": ["a"], "extra": ["a"]}),
        ("infer/2", "infer", 2, {"logits": ["a", "b"]}),  # only gradients are sums
        ("anytime", "anytime", 2, {"logits_02": ["a"]}),  # exit 0 is missing
        ("preprocess", "preprocess", None, {"logits": ["a"]}),
        ("train/0", "train", 0, {"weight": ["a"]}),  # no loss
    ],
)
def test_a_program_that_answers_anything_else_is_refused(
    name: str, mode: str, exit_index: int | None, outputs: dict[str, list[str]]
) -> None:
    with pytest.raises(ManifestError, match=f"program '{name}'"):
        check_answers(name, _answering(mode, exit_index, outputs), [0, 2])


def test_coverage_is_every_answer_of_a_training_program_but_its_loss() -> None:
    training = _answering("train", 0, {"loss": ["a"], "weight[0:2]": ["b"], "bias": ["c"]})

    assert [part.key for part in training.coverage] == ["weight[0:2]", "bias"]
    assert _answering("infer", 0, {"logits": ["a"]}).coverage == ()


def _answering(mode: str, exit_index: int | None, outputs: dict[str, list[str]]) -> Program:
    return Program(
        mode=mode,  # type: ignore[arg-type]  # one of the modes, as the parameters above say
        inputs=SAMPLES,
        calls=[],
        outputs=outputs,
        exit_index=exit_index,
        batch=None,
    )
