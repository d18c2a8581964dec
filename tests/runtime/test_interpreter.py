"""Programs call by call: when answers come, what is kept, what is never computed."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from edgefl.bundle import Bundle
from edgefl.errors import SamplesError, UnknownProgramError
from edgefl.runtime.interpreter import Interpreter
from edgefl.runtime.weights import Weights
from tests.golden_bundle import EXITS, GOLDEN, Fields, change_manifest, copy_golden, random_samples

Array = np.ndarray[Any, Any]

PROGRAMS = json.loads((GOLDEN / "manifest.json").read_bytes())["programs"]


class Traced:
    """An interpreter that notes after each call how many values of its own are alive."""

    def __init__(self, folder: Path = GOLDEN) -> None:
        bundle = Bundle(folder)
        self.weights = Weights(bundle, bundle.adapter().tensors)
        self.calls = 0
        self.alive: list[int] = []
        self.watching = False
        self._interpreter = Interpreter(bundle, self.weights, self._after_call)

    def run(self, name: str, **inputs: Array) -> Iterator[tuple[str, Array]]:
        """Start a program."""
        return self._interpreter.run(name, inputs)

    def _after_call(self) -> None:
        self.calls += 1
        if self.watching:
            values = sum(type(found) is ort.OrtValue for found in gc.get_objects())
            self.alive.append(values - len(self.weights._values))


def batch() -> dict[str, Array]:
    samples, labels = random_samples(4)
    return {"samples": samples, "labels": labels, "weights": np.full(4, 0.25, np.float32)}


def position(program: str, tensor: str) -> int:
    """Return how many calls have run when a tensor exists."""
    return next(i for i, call in enumerate(PROGRAMS[program]["calls"], 1) if tensor in call["outputs"])


def test_each_answer_is_handed_out_as_soon_as_its_call_has_run() -> None:
    traced = Traced()

    calls = {key: traced.calls for key, _ in traced.run("anytime", samples=random_samples(2)[0])}

    assert calls == {f"logits_{e:02d}": position("anytime", f"logits_{e:02d}") for e in EXITS}
    assert list(calls.values()) == sorted(calls.values())


def test_who_stops_listening_stops_the_computation() -> None:
    traced = Traced()

    next(iter(traced.run("anytime", samples=random_samples(2)[0])))

    assert traced.calls == position("anytime", "logits_00") < len(PROGRAMS["anytime"]["calls"])


def test_a_gradient_of_several_calls_comes_in_as_many_pieces() -> None:
    pieces = [key for key, _ in Traced().run("train/2", **batch())]

    expected = [key for key, parts in PROGRAMS["train/2"]["outputs"].items() for _ in parts]
    assert sorted(pieces) == sorted(expected)
    # Exit 2 uses the Accumulator three times and opens the history with it.
    assert pieces.count("accumulator.blocks.0.norm1.weight") == 4


def test_a_tensor_is_freed_after_its_last_use() -> None:
    traced = Traced()
    list(traced.run("train/2", **batch()))  # loads sessions and weights
    gc.collect()
    before = sum(type(found) is ort.OrtValue for found in gc.get_objects()) - len(traced.weights._values)
    traced.watching = True

    list(traced.run("train/2", **batch()))

    calls = PROGRAMS["train/2"]["calls"]
    assert [count - before for count in traced.alive] == list(_needed(calls, PROGRAMS["train/2"]["outputs"]))


def _needed(calls: list[Fields], outputs: dict[str, list[str]]) -> Iterator[int]:
    """Count after each call what it made, plus what was there before it and is read by it or by a later call."""
    answers = {tensor for parts in outputs.values() for tensor in parts}
    inputs = set(PROGRAMS["train/2"]["inputs"])
    for index, call in enumerate(calls):
        read = {tensor for later in calls[index:] for tensor in later["inputs"]}
        read_after = {tensor for later in calls[index + 1 :] for tensor in later["inputs"]}
        before = inputs | {tensor for earlier in calls[:index] for tensor in earlier["outputs"]}
        yield len(before & read) + len(set(call["outputs"]) & (read_after | answers) - {""})


def test_what_nobody_needs_is_not_computed(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)

    def add_dead_end(fields: Fields) -> None:
        calls = fields["programs"]["infer/2"]["calls"]
        frozen = calls[0]["inputs"]
        calls.append({"graph": "embed", "inputs": frozen, "outputs": ["dead", ""]})
        opening = next(call for call in calls if call["graph"] == "open_history")
        calls.append(opening | {"inputs": ["dead", *opening["inputs"][1:]], "outputs": ["end", ""]})

    change_manifest(bundle, add_dead_end)
    traced = Traced(bundle)
    list(traced.run("infer/2", samples=random_samples(1)[0]))

    assert traced.calls == len(PROGRAMS["infer/2"]["calls"])


def test_weights_are_read_where_they_lie() -> None:
    bundle = Bundle(GOLDEN)
    weights = Weights(bundle, bundle.adapter().tensors)

    frozen, rows = weights.value("blocks.0.mlp.fc1.weight"), weights.value("parallel_adapters.down_weight[1:2]")

    assert frozen.data_ptr() == bundle.frozen("blocks.0.mlp.fc1.weight").ctypes.data
    assert rows.data_ptr() == weights.adapter["parallel_adapters.down_weight"][1:].ctypes.data
    assert rows.shape() == [1, 4, 24]


def test_a_value_once_made_follows_its_array() -> None:
    bundle = Bundle(GOLDEN)
    adapter = {name: np.array(array) for name, array in bundle.adapter().tensors.items()}
    weights = Weights(bundle, adapter)
    value = weights.value("head.norm.bias")

    adapter["head.norm.bias"][:] = 3.0

    assert value.numpy().tolist() == [3.0] * 24


@pytest.mark.parametrize(
    ("name", "array", "fault"),
    [
        (
            "samples",
            np.zeros((1, 1, 16, 16)),
            r"is float64 .*, expected float32 of shape \(any, 1, 16, 16\)",
        ),
        ("samples", np.zeros((1, 3, 16, 16), np.float32), "expected float32"),
        ("samples", np.zeros((1, 16, 16), np.float32), "expected float32"),
        ("samples", np.zeros((0, 1, 16, 16), np.float32), "not empty"),
        ("image", np.zeros((1, 1, 16, 16), np.float32), "infer/0 needs 'samples'; it was given image"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(name: str, array: Array, fault: str) -> None:
    with pytest.raises(SamplesError, match=fault):
        list(Traced().run("infer/0", **{name: array}))


def test_strided_inputs_count_as_what_they_mean() -> None:
    samples = random_samples(2)[0]
    strided = np.asfortranarray(samples)

    ((_, expected),) = Traced().run("infer/0", samples=samples)
    ((_, found),) = Traced().run("infer/0", samples=strided)

    assert np.array_equal(found, expected)


def test_an_unknown_program_is_refused() -> None:
    with pytest.raises(UnknownProgramError):
        list(Traced().run("infer/3", samples=random_samples(1)[0]))
