"""Parts of programs: fewer gradients, and what no step changes apart from what it does."""

from __future__ import annotations

import numpy as np
import pytest

from edgefl.bundle.program import Call, Graph, Input, Program
from edgefl.runtime.gradients import Gradients
from edgefl.runtime.part import Part, feature_digests
from tests.golden_bundle import random_samples, trained_model

# Two frozen calls, one that reads the adapter, one frozen that reads what it made, and the loss.
CALLS = [
    Call(graph="embed", inputs=["samples", "patch.weight"], outputs=["tokens", "unread"]),
    Call(graph="block", inputs=["tokens", "blocks.0.weight"], outputs=["tokens.0"]),
    Call(graph="adapt", inputs=["tokens", "tokens.0", "adapter.down[0:1]"], outputs=["adapted"]),
    Call(graph="block", inputs=["adapted", "blocks.1.weight"], outputs=["tokens.1"]),
    Call(graph="loss", inputs=["labels", "weights", "tokens.1", "head"], outputs=["loss", "at.head", "at.down"]),
]
PROGRAM = Program(
    mode="train",
    exit_index=1,
    batch=4,
    inputs={
        "samples": Input(dtype="float32", shape=[None, 1, 2, 2]),
        "labels": Input(dtype="int64", shape=[None]),
        "weights": Input(dtype="float32", shape=[None]),
    },
    calls=CALLS,
    outputs={"loss": ["loss"], "head": ["at.head"], "adapter.down[0:1]": ["at.down"]},
)
ADAPTER = ("adapter.down", "head")
GRAPHS = {
    "embed": Graph(file="embed.onnx", inputs=["samples", "weight"], outputs=["tokens", "mask"]),
    "block": Graph(file="block.onnx", inputs=["tokens", "weight"], outputs=["out"]),
    "adapt": Graph(file="adapt.onnx", inputs=["first", "second", "down"], outputs=["out"]),
    "loss": Graph(file="loss.onnx", inputs=["labels", "weights", "tokens", "head"], outputs=["loss", "head", "down"]),
}


def test_fixed_is_what_reads_samples_and_frozen_tensors_alone_and_answers_what_the_rest_reads() -> None:
    fixed = Part(stage="fixed").of(PROGRAM, ADAPTER)

    assert [call.graph for call in fixed.calls] == ["embed", "block"]
    assert fixed.outputs == {"tokens": ["tokens"], "tokens.0": ["tokens.0"]}


def test_the_rest_has_all_other_calls_and_no_samples() -> None:
    rest = Part(stage="rest").of(PROGRAM, ADAPTER)

    assert [call.graph for call in rest.calls] == ["adapt", "block", "loss"]
    assert list(rest.inputs) == ["labels", "weights"]
    assert rest.outputs == PROGRAM.outputs


def test_only_wanted_gradients_and_the_loss_are_answered() -> None:
    assert list(Part(trained=frozenset({"head"})).of(PROGRAM, ADAPTER).outputs) == ["loss", "head"]
    assert list(Part(trained=frozenset({"adapter.down"})).of(PROGRAM, ADAPTER).outputs) == ["loss", "adapter.down[0:1]"]


def test_nothing_is_fixed_where_the_first_call_reads_the_adapter() -> None:
    assert feature_digests(PROGRAM, [*ADAPTER, "patch.weight"], GRAPHS) == {}


def test_a_digest_changes_with_each_graph_and_tensor_on_the_way_and_with_no_name_in_the_program() -> None:
    def digests(calls: list[Call], adapter: tuple[str, ...] = ADAPTER) -> list[str]:
        inputs = dict(PROGRAM.inputs)
        program = Program(mode="train", exit_index=1, batch=4, inputs=inputs, calls=calls, outputs=PROGRAM.outputs)
        return list(feature_digests(program, adapter, GRAPHS).values())

    renamed = [
        Call(graph="embed", inputs=["samples", "patch.weight"], outputs=["other", ""]),
        Call(graph="block", inputs=["other", "blocks.0.weight"], outputs=["others.0"]),
        Call(graph="adapt", inputs=["other", "others.0", "adapter.down[0:1]"], outputs=["adapted"]),
        *CALLS[3:],
    ]
    elsewhere = [CALLS[0], Call(graph="block", inputs=["tokens", "blocks.7.weight"], outputs=["tokens.0"]), *CALLS[2:]]

    tokens, block = digests(CALLS)
    assert digests(renamed) == [tokens, block]
    assert digests(elsewhere)[0] == tokens
    assert digests(elsewhere)[1] != block


@pytest.mark.parametrize("exit_index", [0, 1, 2])
def test_features_in_place_of_samples_give_the_same_loss_and_gradients(exit_index: int) -> None:
    model, (samples, labels) = trained_model(), random_samples(7)
    loss, gradients = model.train_step(samples, labels, exit_index)

    features = model.features(samples, exit_index)
    found = Gradients(model.adapter)
    found_loss = model.accumulate(found, features, labels, exit_index)

    # The exported blocks have parallel adapters, which are trained: only the embedding is fixed.
    assert {name: array.shape[:1] for name, array in features.arrays.items()} == {"cls": (7,), "patches": (7,)}
    assert found_loss == pytest.approx(loss, rel=1e-6)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(found.arrays[name], gradient, atol=1e-6 * np.abs(gradient).max() + 1e-12)


@pytest.mark.parametrize("exit_index", [0, 1, 2])
def test_features_to_answer_from_give_the_same_answer(exit_index: int) -> None:
    model, (samples, _) = trained_model(), random_samples(7)

    found = model.answer(model.features(samples, exit_index, "infer"), exit_index)

    assert found.exit_index == exit_index
    np.testing.assert_allclose(found.logits, model.answer(samples, exit_index).logits, rtol=1e-5, atol=1e-6)


def test_buffers_for_some_tensors_get_those_gradients_and_the_same_loss() -> None:
    model, (samples, labels) = trained_model(), random_samples(5)
    loss, gradients = model.train_step(samples, labels, 2)
    name = "accumulator.client_token"

    found = Gradients({name: model.adapter[name]})
    found_loss = model.accumulate(found, samples, labels, 2)

    assert list(found.arrays) == [name]
    assert found_loss == pytest.approx(loss, rel=1e-6)
    np.testing.assert_allclose(found.arrays[name], gradients[name], rtol=1e-4, atol=1e-7)
