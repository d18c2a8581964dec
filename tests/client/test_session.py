"""What a device answers (docs/protocol.md): properties, trained parts with their keys, and stock Flower's questions."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from itertools import chain, count, repeat
from threading import Event
from typing import Any

import numpy as np
import psutil
import pytest

from edgefl import __version__
from edgefl.client.session import Session
from edgefl.core.record_values import ConfigValue
from edgefl.core.tensor_slice import TensorSlice
from edgefl.errors import InstructionError, SamplesError
from edgefl.fleet.content import Content
from edgefl.fleet.status import StoppedError
from edgefl.samples.arrays import ArraySamples
from edgefl.update.instruction import Properties, ReplyHeader
from tests.client.serving import BUNDLE_ID, NUM_EXAMPLES, instruction, sent_adapter, train_content
from tests.golden_bundle import CLASSES, random_samples, trained_model

METRICS = {"num-examples", "loss", "steps", "train_seconds", "peak_rss_bytes"}


def make_session(deepest_exit: int = 2, stop: Event | None = None, clock: Callable[[], float] = lambda: 0.0) -> Session:
    samples = ArraySamples(*random_samples(NUM_EXAMPLES), CLASSES)
    return Session(trained_model(), samples, deepest_exit, stop=stop or Event(), clock=clock)


def train(session: Session, **changes: ConfigValue) -> Content:
    return session.answer("train", train_content(**changes))


def test_a_device_tells_what_it_is_and_what_it_affords() -> None:
    answer = make_session(deepest_exit=1).answer("query.properties", Content())

    assert Properties.from_config(answer.configs["properties"]) == Properties(
        edgefl=1,
        bundle_id=BUNDLE_ID,
        deepest_exit=1,
        num_examples=NUM_EXAMPLES,
        memory_bytes=psutil.virtual_memory().total,
        cores=len(psutil.Process().cpu_affinity()),
        machine=platform.machine(),
        client=f"edgefl-python/{__version__}",
    )
    assert not answer.arrays


def test_the_same_instruction_is_other_work_with_other_samples_or_another_budget() -> None:
    others = ArraySamples(random_samples(NUM_EXAMPLES)[0], (random_samples(NUM_EXAMPLES)[1] + 1) % CLASSES, CLASSES)
    digest = make_session(deepest_exit=2).work_digest

    assert make_session(deepest_exit=2).work_digest == digest
    assert make_session(deepest_exit=1).work_digest != digest
    assert Session(trained_model(), others, 2, stop=Event()).work_digest != digest


@pytest.mark.parametrize("exit_index", [0, 1, 2])
def test_the_arrays_have_exactly_the_keys_of_the_coverage_and_the_shapes_of_their_parts(exit_index: int) -> None:
    answer = train(make_session(), exit_index=exit_index)

    header = ReplyHeader.from_config(answer.configs["reply"])
    assert list(answer.arrays) == header.coverage
    assert f"accumulator.positions[0:{exit_index + 2}]" in answer.arrays
    assert ("parallel_adapters.up_weight[0:1]" in answer.arrays) == (exit_index == 0)
    sent = sent_adapter()
    for part in map(TensorSlice.parse, header.coverage):
        assert answer.arrays[part.key].shape == part.shape(sent[part.name].shape)
        assert answer.arrays[part.key].dtype == np.float32


def test_the_header_repeats_what_was_asked() -> None:
    header = ReplyHeader.from_config(train(make_session()).configs["reply"])

    assert (header.edgefl, header.adapter_version, header.round, header.exit_index) == (1, 3, 4, 1)
    assert header.bundle_id == BUNDLE_ID
    assert header.reply == "values"


def test_a_device_that_became_smaller_trains_the_deepest_exit_it_still_affords_and_says_so() -> None:
    answer = train(make_session(deepest_exit=1), exit_index=2)

    assert ReplyHeader.from_config(answer.configs["reply"]).exit_index == 1
    same = train(make_session(deepest_exit=1), exit_index=1)
    assert all(np.array_equal(array, same.arrays[key]) for key, array in answer.arrays.items())


def test_values_are_what_was_sent_after_training_and_a_delta_is_their_difference() -> None:
    session, sent = make_session(), sent_adapter()

    values = train(session)
    delta = train(session, reply="delta")

    assert delta.configs["reply"]["reply"] == "delta"
    assert list(values.arrays) == list(delta.arrays)
    for key, array in values.arrays.items():
        part = TensorSlice.parse(key)
        assert np.array_equal(delta.arrays[key], array - sent[part.name][part.index]), key
        assert np.array_equal(session.model.adapter[part.name][part.index], array), key
    assert any(array.any() for array in delta.arrays.values())


def test_training_starts_from_what_was_sent_and_not_from_what_the_device_has() -> None:
    session = make_session()
    first = train(session)
    again = train(session)

    assert all(np.array_equal(array, again.arrays[key]) for key, array in first.arrays.items())
    assert session.rounds == 2


def test_the_metrics_have_the_names_that_stock_flower_and_the_page_use() -> None:
    ticks = count()

    metrics = train(make_session(clock=lambda: float(next(ticks)))).metrics["metrics"]

    assert set(metrics) == METRICS
    assert metrics["num-examples"] == NUM_EXAMPLES
    assert metrics["steps"] == 6  # two epochs of 4 + 4 + 2
    assert metrics["train_seconds"] == next(ticks) - 1
    assert metrics["peak_rss_bytes"] > 2**20
    assert 0 < metrics["loss"] < 10


@pytest.mark.parametrize("config", [{}, {"server-round": 1}, {"lr": 0.01, "epochs": 50}])
def test_without_an_instruction_of_ours_the_whole_adapter_is_trained_for_one_epoch(config: dict[str, Any]) -> None:
    session, sent = make_session(deepest_exit=1), sent_adapter()

    answer = session.answer("train", Content(arrays=sent, configs={"config": config}))

    assert list(answer.arrays) == list(sent)
    assert all(array.shape == sent[name].shape for name, array in answer.arrays.items())
    assert not answer.configs
    assert set(answer.metrics["metrics"]) == METRICS
    assert answer.metrics["metrics"]["steps"] == 1  # ten samples, a batch of 32
    positions = answer.arrays["accumulator.positions"]
    assert np.array_equal(positions[3:], sent["accumulator.positions"][3:]), "below its deepest exit nothing moves"
    assert (positions[:3] != sent["accumulator.positions"][:3]).any()


def test_without_any_config_it_is_the_same() -> None:
    answer = make_session().answer("train", Content(arrays=sent_adapter()))

    assert list(answer.arrays) == list(sent_adapter())


def until(last: float) -> Iterator[float]:
    """Return a clock that goes on by one second at each look and then stands still."""
    return chain((float(second) for second in range(int(last))), repeat(last))


def test_a_device_stops_when_four_fifths_of_the_deadline_are_over_and_answers_with_the_steps_it_made() -> None:
    clock = until(1000.0)

    answer = train(
        make_session(clock=lambda: next(clock)), epochs=10**12, batch_size=1, draw="uniform", deadline_seconds=10.0
    )

    # It arrives at second 0; looks at seconds 1 to 7 find time, the one at second 8 does not.
    assert answer.metrics["metrics"]["steps"] == 7
    assert answer.metrics["metrics"]["num-examples"] == 7
    assert answer.arrays.keys() == set(ReplyHeader.from_config(answer.configs["reply"]).coverage)


def test_a_deadline_that_is_over_before_the_first_step_is_answered_with_an_error() -> None:
    clock = until(1.0)
    session = make_session(clock=lambda: next(clock))
    before = session.model.adapter

    with pytest.raises(InstructionError, match="over before the first step was done; allow more deadline_seconds"):
        train(session, deadline_seconds=0.001)

    assert session.model.adapter is before
    assert session.rounds == 0


def test_told_to_stop_a_session_drops_the_training_and_keeps_the_adapter_it_had() -> None:
    stop = Event()

    def clock() -> float:
        if next(looks) == 3:
            stop.set()
        return 0.0

    looks = count()
    session = make_session(stop=stop, clock=clock)
    before = session.model.adapter

    with pytest.raises(StoppedError, match="the instruction is kept for the next start"):
        train(session, epochs=10**12)

    assert session.model.adapter is before


def test_training_that_diverges_is_refused_and_the_device_keeps_its_adapter() -> None:
    session = make_session()
    before = session.model.adapter

    with pytest.raises(InstructionError, match="training diverged"):
        train(session, learning_rate=1e9)

    assert session.model.adapter is before
    assert train(session).arrays


def test_values_that_only_the_last_step_made_infinite_are_refused_too() -> None:
    sent = sent_adapter()
    # Equal and near float32's end: the loss is finite, and the decay of one step takes them beyond it.
    sent["head.mlp.fc2.bias"] = np.full(CLASSES, 3e38, np.float32)
    asked = instruction(epochs=1, batch_size=10, optimizer="adamw", weight_decay=1e9)

    with pytest.raises(
        InstructionError, match=r"diverged: it ended with NaN or infinite values in 'head.mlp.fc2.bias'"
    ):
        make_session().answer("train", Content(arrays=sent, configs={"config": asked}))


def test_a_sample_that_cannot_be_read_is_an_error_and_the_next_instruction_is_followed() -> None:
    class Fading(ArraySamples):
        lost = True

        def read(self, indices: Any) -> list[np.ndarray[Any, Any]]:
            """Fail the first time."""
            if self.lost:
                self.lost = False
                raise SamplesError("a.png cannot be read as an image")
            return super().read(indices)

    session = Session(trained_model(), Fading(*random_samples(4), CLASSES), 2, stop=Event())
    before = session.model.adapter

    with pytest.raises(SamplesError):
        train(session)

    assert session.model.adapter is before
    assert train(session).arrays
