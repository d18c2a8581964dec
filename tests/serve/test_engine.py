"""The engine: who is answered where, together with whom, and what stops it."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from queue import Queue

import numpy as np
import pytest

import edgefl
from edgefl.policy.batching import BatchCosts
from edgefl.serve.adapter_in_use import AdapterInUse
from edgefl.serve.adapter_watch import AdapterWatch
from edgefl.serve.engine import EndingError, Engine, LateError
from edgefl.serve.metrics import Metrics
from edgefl.serve.pace import Pace
from edgefl.serve.ticket import Served
from tests.golden_bundle import GOLDEN, copy_golden, random_samples, trained_adapter
from tests.serve.engine_bench import TO_EXIT_1, TO_THE_END, Counting, running_engine, ticket

Found = Queue[Served | Exception]


def served(found: Found) -> Served:
    item = found.get(timeout=60)
    assert isinstance(item, Served), item
    return item


def held(engine: Engine, boundary: Counting) -> threading.Event:
    """Keep the engine busy with a batch of its own until the event is set."""
    free, busy = threading.Event(), threading.Event()

    def wait() -> None:
        busy.set()
        assert free.wait(60)

    boundary.first.append(wait)
    engine.submit(ticket(Queue()))
    assert busy.wait(60)
    return free


def test_an_answer_is_the_model_s_at_the_exit_that_was_decided() -> None:
    found: Found = Queue()
    with running_engine() as (engine, _, _):
        engine.submit(ticket(found, decision=TO_EXIT_1))
        item = served(found)

    expected = next(edgefl.load(GOLDEN).infer(random_samples(1)[0], 1))
    np.testing.assert_allclose(item.logits, expected.logits[0], rtol=1e-5)
    assert item.answer.exit_index == 1
    assert item.answer.label == int(expected.labels[0])
    assert item.answer.confidence == pytest.approx(float(expected.confidence[0]), rel=1e-5)
    assert item.answer.stopped is not None
    assert item.answer.stopped.rule == "battery"
    assert item.adapter_sha256 == edgefl.Bundle(GOLDEN).adapter().digest()


def test_who_asks_for_every_exit_gets_each_and_the_last_one_says_why() -> None:
    found: Found = Queue()
    with running_engine() as (engine, _, _):
        engine.submit(ticket(found, every_exit=True))
        items = [served(found) for _ in range(3)]

    assert [item.answer.exit_index for item in items] == [0, 1, 2]
    assert [item.answer.stopped.rule if item.answer.stopped else None for item in items] == [None, None, "deepest"]


def test_requests_that_wait_together_are_answered_together_each_its_own_way() -> None:
    found = [Queue[Served | Exception]() for _ in range(5)]
    with running_engine() as (engine, _, boundary):
        free = held(engine, boundary)
        asked = [(TO_THE_END, None), (TO_EXIT_1, None), (TO_THE_END, 0.0), (TO_THE_END, None), (TO_THE_END, None)]
        for seed, (queue, (decision, confidence)) in enumerate(zip(found, asked, strict=True)):
            engine.submit(ticket(queue, seed=seed, decision=decision, min_confidence=confidence))
        assert engine.queue_length == 5
        free.set()
        items = [served(queue) for queue in found]

    assert [item.batch for item in items] == [4, 4, 4, 4, 1]  # four pay
    assert [item.answer.exit_index for item in items] == [2, 1, 0, 2, 2]
    model = edgefl.load(GOLDEN)
    for seed, item in enumerate(items):
        expected = next(model.infer(random_samples(1, seed)[0], item.answer.exit_index))
        np.testing.assert_allclose(item.logits, expected.logits[0], rtol=1e-4, atol=1e-6)


def test_the_one_with_the_earliest_deadline_is_answered_first() -> None:
    order: Queue[str] = Queue()
    late, soon = (ticket(Queue(), seconds=seconds) for seconds in (1000.0, 100.0))
    late.deliver, soon.deliver = (lambda _: order.put("late")), (lambda _: order.put("soon"))
    alone = BatchCosts(sizes=(1,), reached=((0.1, 0.2, 0.3),), answer=(0.1,))
    with running_engine(alone) as (engine, _, boundary):
        free = held(engine, boundary)
        engine.submit(late)
        engine.submit(soon)
        free.set()
        assert [order.get(timeout=60), order.get(timeout=60)] == ["soon", "late"]


def test_a_request_whose_time_does_not_suffice_for_any_exit_is_told_so_and_computes_nothing() -> None:
    found: Found = Queue()
    with running_engine() as (engine, _, boundary):
        before = boundary.calls
        engine.submit(ticket(found, seconds=-1.0))
        assert isinstance(found.get(timeout=60), LateError)
        assert boundary.calls == before


def test_a_deadline_that_leaves_no_time_for_the_next_exit_is_answered_at_this_one() -> None:
    # As measured, exit 0 takes no time and each deeper one 1000 s.
    slow = BatchCosts(sizes=(1,), reached=((0.0, 1e6, 2e6),), answer=(0.0,))
    found: Found = Queue()
    with running_engine(slow) as (engine, _, _):
        engine.submit(ticket(found, seconds=500.0))
        item = served(found)

    assert item.answer.exit_index == 0
    assert item.answer.stopped is not None
    assert item.answer.stopped.rule == "deadline"


@pytest.mark.parametrize(
    ("seconds", "answers"),
    [
        # 1000 s from exit to exit, as measured; a step may take twice as long.  What the first one takes in truth says
        # that the device is faster, by 1 / 0.95.
        (2000.0, [(2, "deepest")]),
        (1500.0, [(0, None), (2, "deepest")]),  # once
    ],
)
def test_where_the_next_exit_may_be_late_an_answer_is_put_by_first(
    seconds: float, answers: list[tuple[int, str | None]]
) -> None:
    slow = BatchCosts(sizes=(1,), reached=((1e6, 2e6, 3e6),), answer=(0.0,))
    found: Found = Queue()
    with running_engine(slow) as (engine, _, _):
        engine.submit(ticket(found, seconds=seconds))
        items = [served(found) for _ in answers]

    stops = [item.answer.stopped.rule if item.answer.stopped else None for item in items]
    assert list(zip([item.answer.exit_index for item in items], stops, strict=True)) == answers
    assert found.empty()


def test_no_exit_shallower_than_the_least_one_answers_whatever_the_deadline() -> None:
    slow = BatchCosts(sizes=(1,), reached=((0.0, 1e6, 2e6),), answer=(0.0,))
    found: Found = Queue()
    with running_engine(slow) as (engine, _, _):
        engine.submit(ticket(found, seconds=500.0, least_exit=1))
        assert served(found).answer.exit_index == 1


def test_depth_is_shed_for_those_who_wait() -> None:
    # From exit to exit 1000 s as measured: who waits has time for exit 0 alone, if the running one stops at once.
    slow = BatchCosts(sizes=(1,), reached=((1e6, 2e6, 3e6),), answer=(0.0,))
    first, second = Queue[Served | Exception](), Queue[Served | Exception]()
    with running_engine(slow) as (engine, _, boundary):
        boundary.first.append(lambda: engine.submit(ticket(second, seconds=1500.0)))
        engine.submit(ticket(first))
        item = served(first)
        served(second)

    assert item.answer.exit_index == 0
    assert item.answer.stopped is not None
    assert item.answer.stopped.rule == "load"


def test_nothing_is_computed_after_the_call_in_which_everybody_went_away() -> None:
    found, after, gone = Queue[Served | Exception](), Queue[Served | Exception](), threading.Event()
    asked = ticket(found)

    def go_away() -> None:
        asked.cancelled = True
        gone.set()

    with running_engine() as (engine, _, boundary):
        boundary.first.append(go_away)
        engine.submit(asked)
        assert gone.wait(60)
        engine.submit(ticket(after, decision=TO_EXIT_1))
        served(after)
        calls = boundary.calls

    assert found.empty()
    # One call of the first; embedding, history, block 0, modulation, block 1 and the answer of the second.
    assert calls == 1 + 6


def test_a_batch_goes_on_for_those_who_stay() -> None:
    gone, stays = ticket(Queue(), seed=1), Queue[Served | Exception]()
    with running_engine() as (engine, _, boundary):
        free = held(engine, boundary)
        engine.submit(gone)
        engine.submit(ticket(stays, seed=2))
        free.set()
        gone.cancelled = True
        assert served(stays).answer.exit_index == 2


def test_an_error_reaches_all_of_its_batch_and_the_next_one_is_answered() -> None:
    wrong, right = Queue[Served | Exception](), Queue[Served | Exception]()
    misshapen = ticket(wrong)
    misshapen.sample = misshapen.sample[:, :, :3]
    with running_engine() as (engine, _, _):
        engine.submit(misshapen)
        assert isinstance(wrong.get(timeout=60), Exception)
        engine.submit(ticket(right))
        served(right)


def test_a_new_adapter_answers_from_the_next_batch_on() -> None:
    first, second = Queue[Served | Exception](), Queue[Served | Exception]()
    tensors = trained_adapter()
    with running_engine() as (engine, model, boundary):
        new = AdapterInUse(
            tensors=tensors, sha256="new", version=7, temperatures=dict.fromkeys(model.exits, 1.0), thresholds={}
        )
        boundary.first.append(lambda: engine.use_adapter(new))
        engine.submit(ticket(first))
        before = served(first)
        engine.submit(ticket(second))
        after = served(second)

    unchanged, changed = edgefl.load(GOLDEN), edgefl.load(GOLDEN)
    changed.use_adapter(tensors)
    for item, model, sha256 in ((before, unchanged, edgefl.Bundle(GOLDEN).adapter().digest()), (after, changed, "new")):
        np.testing.assert_allclose(item.logits, next(model.infer(random_samples(1)[0], 2)).logits[0], rtol=1e-4)
        assert item.adapter_sha256 == sha256


def test_thresholds_are_those_of_the_adapter_that_answers() -> None:
    first, second, own = (Queue[Served | Exception]() for _ in range(3))
    with running_engine() as (engine, model, boundary):
        sure = AdapterInUse(
            tensors=trained_adapter(), sha256="sure", version=1,
            temperatures=dict.fromkeys(model.exits, 1.0), thresholds={0: 0.0, 1: 0.0, 2: 0.0},
        )  # fmt: skip
        boundary.first.append(lambda: engine.use_adapter(sure))
        engine.submit(ticket(first))
        before = served(first)
        engine.submit(ticket(second))
        engine.submit(ticket(own, min_confidence=1.0))

        assert (before.answer.exit_index, served(second).answer.exit_index) == (2, 0)
        assert served(own).answer.exit_index == 2


def test_who_still_waits_when_the_engine_ends_is_told() -> None:
    found: Found = Queue()
    with running_engine() as (engine, _, boundary):
        free = held(engine, boundary)
        engine.submit(ticket(found))
        closing = threading.Thread(target=engine.close)
        closing.start()
        free.set()
        closing.join(60)
        assert isinstance(found.get(timeout=60), EndingError)


def test_every_request_of_many_threads_is_answered_once() -> None:
    found = [Queue[Served | Exception]() for _ in range(60)]
    with running_engine() as (engine, _, _):

        def ask(start: int) -> None:
            for place in range(start, 60, 6):
                engine.submit(ticket(found[place], seed=place, seconds=1000.0))

        threads = [threading.Thread(target=ask, args=(start,)) for start in range(6)]
        for thread in threads:
            thread.start()
        items = [served(queue) for queue in found]
        for thread in threads:
            thread.join()

    assert all(queue.empty() for queue in found)
    assert {item.answer.exit_index for item in items} == {2}


def test_pace_follows_what_things_take() -> None:
    found: Found = Queue()
    slow_told = BatchCosts(sizes=(1,), reached=((1e5, 2e5, 3e5),), answer=(1e5,))
    with running_engine(slow_told) as (engine, _, _):
        engine.submit(ticket(found))
        served(found)
        engine.submit(ticket(found))
        served(found)
        ratio = engine.pace.ratio

    # Each exit took far less than the 100 s it was told to take: six times a tenth of the way from 1 to 0.5.
    assert ratio == pytest.approx(0.5 + 0.5 * 0.9**6)


def test_an_adapter_that_came_while_the_service_was_starting_is_noticed(tmp_path: Path) -> None:
    with running_engine() as (engine, _, _):
        bundle = edgefl.Bundle(copy_golden(tmp_path))
        new = dataclasses.replace(bundle.adapter(), tensors=trained_adapter())
        new.save(bundle.folder / "adapter.safetensors", bundle.manifest.adapter.header_bytes)
        metrics = Metrics(queue_length=lambda: 0, pace=lambda: 1, version=lambda: 0)

        watch = AdapterWatch(bundle, None, engine, metrics)
        watch.check()

        assert engine.adapter.sha256 == new.digest()


def test_a_step_that_took_long_says_that_the_next_one_may() -> None:
    pace = Pace()
    pace.note(30.0, 10.0)
    # A tenth of the way from 1 to 3 for all steps; 3 for one.
    assert (pace.ratio, pace.strain) == (pytest.approx(1.2), pytest.approx(3.0 / 1.2))
    pace.note(10.0, 10.0)
    assert pace.strain == 1.0


def test_the_time_that_is_kept_for_an_answer_s_way_out_follows_what_it_takes() -> None:
    quick, slow = Pace(), Pace()
    for _ in range(100):
        quick.note_delivery(0.5)
        slow.note_delivery(8.0)

    # The mean, hardly any deviation, and three milliseconds for the network.
    assert quick.reserve_ms == pytest.approx(3.5, abs=0.1)
    assert slow.reserve_ms == pytest.approx(11.0, abs=0.1)
    assert slow.send_ms == pytest.approx(3.0, abs=0.1)
    assert slow.left_ms(1.1, 1.0) == pytest.approx(100.0 - slow.reserve_ms)
