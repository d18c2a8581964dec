"""Programs call by call: when answers come, what is kept, what is never computed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefl.bundle import Bundle
from edgefl.errors import SamplesError, UnknownProgramError
from edgefl.runtime.interpreter import Interpreter
from edgefl.runtime.part import WHOLE
from edgefl.runtime.weights import Weights
from tests.golden_bundle import EXITS, GOLDEN, Fields, change_manifest, copy_golden, random_samples

Array = np.ndarray[Any, Any]

PROGRAMS = json.loads((GOLDEN / "manifest.json").read_bytes())["programs"]


class Traced:
    """An interpreter that counts its calls."""

    def __init__(self, folder: Path = GOLDEN) -> None:
        bundle = Bundle(folder)
        self.weights = Weights(bundle, bundle.adapter().tensors)
        self.calls = 0
        self.interpreter = Interpreter(bundle, self.weights, self._after_call)

    def run(self, name: str, **inputs: Array) -> Iterator[tuple[str, Array]]:
        """Start a program."""
        return self.interpreter.run(name, inputs)

    def _after_call(self) -> None:
        self.calls += 1


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


def test_tensors_that_do_not_live_at_once_share_memory() -> None:
    traced = Traced()
    list(traced.run("infer/2", samples=random_samples(4)[0]))

    (prepared,) = traced.interpreter._idle.values()
    steps = [call.step for call in prepared.calls]
    # Embedding 2, history 2, two blocks and modulations 2 + 3 each, the exit's row and the logits.
    assert sum(len(step.wanted) for step in steps) == 16
    assert len(prepared.arrays) < 16
    # The last tensors of a run lie where others have been: CLS of exit 2 is as large as the first one.
    assert steps[-2].wanted[0][1] == "cls.2"
    assert prepared.calls[-2]._known["cls.2"].data_ptr() in {
        call._known[tensor].data_ptr() for call in prepared.calls[:-2] for _, tensor in call.step.wanted
    }


def test_answers_stay_as_they_are_when_the_program_runs_again() -> None:
    traced = Traced()
    first, second = random_samples(4)[0], random_samples(8)[0][4:]
    answers = dict(traced.run("anytime", samples=first))
    kept = {key: logits.copy() for key, logits in answers.items()}

    others = dict(traced.run("anytime", samples=second))

    for key, logits in answers.items():
        assert np.array_equal(logits, kept[key])
        assert not np.array_equal(logits, others[key])


def test_a_run_that_waits_is_not_disturbed_by_one_in_between() -> None:
    traced = Traced()
    first, second = random_samples(4)[0], random_samples(8)[0][4:]
    expected = dict(traced.run("anytime", samples=first))

    found = {}
    for key, logits in traced.run("anytime", samples=first):
        found[key] = logits
        list(traced.run("anytime", samples=second))

    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


def test_threads_may_run_programs_at_once() -> None:
    traced = Traced()
    given = [random_samples(12)[0][start : start + 4] for start in (0, 4, 8)] * 8
    expected = [dict(traced.run("infer/2", samples=samples))["logits"] for samples in given]

    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda samples: dict(traced.run("infer/2", samples=samples))["logits"], given)

    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_only_so_many_programs_are_kept_ready() -> None:
    traced = Traced()
    for size in range(1, 50):
        list(traced.run("infer/0", samples=random_samples(size)[0]))

    assert 1 <= len(traced.interpreter._idle) <= 32
    assert (("infer/0", WHOLE), ((49, 1, 16, 16),)) in traced.interpreter._idle


def test_nothing_keeps_memory_that_was_let_go() -> None:
    traced = Traced()
    for size in (1, 64):
        list(traced.run("infer/2", samples=random_samples(size)[0]))

    # The arrays of one sample were too small for 64 of them.
    assert [shapes for _, shapes in traced.interpreter._idle] == [((64, 1, 16, 16),)]


def test_memory_of_a_large_batch_goes_when_other_programs_have_run() -> None:
    traced = Traced()
    for size in (640, *range(1, 40)):
        list(traced.run("infer/0", samples=random_samples(size)[0]))

    # What is left is for 39 samples at most: twice as much would do for them, but not what 640 needed.
    assert max(array.size for array in traced.interpreter._buffers.claim_all()) <= 2 * 39 * 4 * 24


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
