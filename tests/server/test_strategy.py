"""Whole runs of the strategy over a network that is not there: every record and every file is real."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, RecordDict

from edgefl.bundle import Bundle
from edgefl.update.instruction import Instruction
from edgefl_server.host.state import StateFolder
from edgefl_server.rounds.arrays import encode_arrays
from edgefl_server.rounds.checkpoint import load_checkpoint
from edgefl_server.rounds.cohort import Cohort
from edgefl_server.rounds.collect import Limits
from edgefl_server.rounds.history import read_rounds
from edgefl_server.settings import Scalar, Settings
from edgefl_server.strategy import TierStrategy
from tests.server.toy_federation import ToyDevice, ToyGrid, failing, on_train, reply_records, silent
from tests.toy_bundle import toy_tensors, write_toy_bundle

ADAPTER_BYTES = sum(array.nbytes for array in toy_tensors().values())


class Federation:
    """A bundle, a state folder and devices."""

    def __init__(self, tmp_path: Path) -> None:
        self.bundle = Bundle(write_toy_bundle(tmp_path / "toy"))
        self.state = StateFolder(tmp_path / "state")
        self.state.path.mkdir()
        self.grid = ToyGrid({})

    def device(self, deepest_exit: int, step: float = 1.0, num_examples: int = 10) -> ToyDevice:
        """Return a device that holds the bundle."""
        return ToyDevice(self.bundle.manifest.bundle_id, deepest_exit, step, num_examples)

    def strategy(self, **settings: Scalar) -> TierStrategy:
        """Return the strategy that a server started now would run."""
        required: dict[str, Scalar] = {"bundle": str(self.bundle.folder), "state": str(self.state.path)}
        defaults: dict[str, Scalar] = {"rounds": 1, "server_momentum": 0.0, "min_clients": len(self.grid.nodes)}
        return TierStrategy(
            Settings.from_run_config(required | defaults | settings),
            self.bundle.manifest,
            load_checkpoint(self.state.checkpoint, self.bundle),
            cohort=Cohort(self.bundle.manifest, Limits(deadline_seconds=1, poll_seconds=0.01), wait_seconds=0.01),
            poll_seconds=0.01,
        )

    def run(self, **settings: Scalar) -> None:
        """Start a server, let it run to its end and forget it."""
        self.strategy(**settings).run(self.grid, self.state)

    def moved(self, name: str) -> list[float]:
        """Return how far each row of a tensor is from where the bundle had it."""
        adapter = self.bundle.adapter(self.state.adapter)
        moved = adapter.tensors[name] - self.bundle.adapter().tensors[name]
        return [round(float(row), 4) for row in moved.mean(axis=1)]


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    federation = Federation(tmp_path)
    yield federation
    federation.grid.released.set()


def test_each_part_moves_by_the_mean_of_the_clients_that_trained_it(federation: Federation) -> None:
    federation.grid.nodes = {1: federation.device(0, step=2), 2: federation.device(5, step=5)}
    federation.run()
    # Exit 0 covers rows 0..1, exit 5 rows 0..6; both move the head.
    assert federation.moved("positions") == [3.5] * 2 + [5.0] * 5 + [0.0] * 6
    assert federation.moved("head.weight") == [3.5] * 4
    assert federation.moved("parallel.5.weight") == [5.0] * 4
    assert federation.moved("parallel.6.weight") == [0.0] * 4


@pytest.mark.parametrize(("weighting", "moved"), [("equal", (2 + 5) / 2), ("samples", (30 * 2 + 10 * 5) / 40)])
def test_clients_weigh_the_same_or_as_much_as_their_samples(
    federation: Federation, weighting: str, moved: float
) -> None:
    federation.grid.nodes = {
        1: federation.device(0, step=2, num_examples=30),
        2: federation.device(0, step=5, num_examples=10),
    }
    federation.run(weighting=weighting)
    assert federation.moved("head.weight") == pytest.approx([moved] * 4)


def test_the_instruction_says_what_the_settings_say_and_each_devices_own_exit_and_seed(federation: Federation) -> None:
    shallow, deep = federation.device(3), federation.device(11)
    federation.grid.nodes = {1: shallow, 2: deep}
    federation.run(rounds=2, learning_rate=0.1, draw="own", optimizer="sgd", clip=0.0, deadline_seconds=30.0)
    first, second = deep.seen
    assert [instruction.exit_index for instruction in shallow.seen] == [2, 2]
    assert (first.exit_index, first.draw, first.optimizer, first.clip, first.reply) == (11, "own", "sgd", 0.0, "values")
    assert (first.round, first.adapter_version, second.round, second.adapter_version) == (1, 0, 2, 1)
    assert (first.learning_rate, second.learning_rate) == pytest.approx((0.1, 0.05))
    assert len({instruction.seed for instruction in [*deep.seen, *shallow.seen]}) == 4


def test_a_round_outlives_a_device_that_fails_one_that_is_silent_and_one_that_stalls(federation: Federation) -> None:
    good, other = federation.device(2, step=3), federation.device(11)
    federation.grid.nodes = {
        1: good,
        2: on_train(other, failing),
        3: on_train(other, silent),
        4: on_train(other, federation.grid.stalled),
    }
    federation.run(quorum=0.25, grace_seconds=0.2)
    (record,) = read_rounds(federation.state.history)
    assert [(reply.node_id, reply.exit_index, reply.num_examples) for reply in record.replies] == [(1, 2, 10)]
    assert {(failure.node_id, failure.kind) for failure in record.failures} == {
        (2, "error"),
        (3, "missing"),
        (4, "missing"),
    }
    assert record.is_aggregated
    assert federation.moved("head.weight") == [3.0] * 4


def test_too_few_updates_leave_adapter_and_version_and_are_told(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    federation.grid.nodes = {1: federation.device(2), 2: on_train(federation.device(2), failing)}
    federation.run(quorum=1.0)
    (record,) = read_rounds(federation.state.history)
    assert (record.is_aggregated, record.adapter_version, len(record.replies)) == (False, 0, 1)
    assert federation.moved("head.weight") == [0.0] * 4
    assert "round 1 keeps the adapter: 1 of at least 2 updates came" in caplog.text


def test_a_refused_update_is_no_part_of_the_average_and_the_history_says_why(federation: Federation) -> None:
    good, bad = federation.device(2, step=3), federation.device(2, step=float("nan"))
    federation.grid.nodes = {1: good, 2: bad}
    federation.run()
    (record,) = read_rounds(federation.state.history)
    (failure,) = record.failures
    assert (failure.node_id, failure.kind) == (2, "refused")
    assert "NaN" in failure.reason
    assert federation.moved("head.weight") == [3.0] * 4


def test_a_momentum_that_overflows_float32_leaves_the_adapter(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    device = federation.device(0)

    def swinging(message: Message) -> Message:
        instruction = Instruction.from_config(message.content.config_records["config"])
        value = np.float32(3e38 if instruction.round == 1 else -3e38)  # float32 ends at 3.4e38, the step is -6e38
        return Message(reply_records(instruction, {"head.weight": np.full((4, 4), value)}), reply_to=message)

    federation.grid.nodes = {1: on_train(device, swinging)}
    federation.run(rounds=2, server_momentum=0.5)
    assert [record.adapter_version for record in read_rounds(federation.state.history)] == [1, 1]
    assert "round 2 keeps the adapter: its average is not finite" in caplog.text


def test_the_history_counts_the_bytes_of_the_values_both_ways(federation: Federation) -> None:
    federation.grid.nodes = {1: federation.device(0), 2: federation.device(11)}
    federation.run()
    (record,) = read_rounds(federation.state.history)
    # Exit 0 sends the head (16 values), two rows (8) and one parallel adapter (16) in float32, exit 11 everything.
    assert record.bytes_down == 2 * ADAPTER_BYTES
    assert record.bytes_up == 4 * (16 + 8 + 16) + ADAPTER_BYTES
    assert [(member.node_id, member.exit_index) for member in record.cohort] == [(1, 0), (2, 11)]


def test_a_restarted_server_goes_on_at_the_next_round_with_its_momentum(federation: Federation) -> None:
    device = federation.device(11)
    federation.grid.nodes = {1: device}
    federation.run(rounds=2, server_momentum=0.5)
    federation.run(rounds=3, server_momentum=0.5)
    # The device moves by 1; the momentum is 1, then 1.5, then 1.75, and the adapter their sum.
    assert federation.moved("head.weight") == [1 + 1.5 + 1.75] * 4
    assert [instruction.round for instruction in device.seen] == [1, 2, 3]
    assert [record.round for record in read_rounds(federation.state.history)] == [1, 2, 3]
    adapter = federation.bundle.adapter(federation.state.adapter)
    assert (adapter.version, adapter.round) == (3, 3)


def test_a_server_that_dies_in_a_round_repeats_that_round_alone(federation: Federation) -> None:
    device = federation.device(11)
    federation.grid.nodes = {1: device}

    class Dying(ToyGrid):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            messages = list(messages)
            if messages[0].metadata.group_id == "3":
                raise ConnectionError("the SuperLink is gone")
            return super().push_messages(messages)

    with pytest.raises(ConnectionError):
        federation.strategy(rounds=4).run(Dying({1: device}), federation.state)
    federation.run(rounds=4)
    assert [instruction.round for instruction in device.seen] == [1, 2, 3, 4]
    assert federation.moved("head.weight") == [4.0] * 4


def test_a_round_that_ended_without_an_update_is_not_repeated_after_a_restart(federation: Federation) -> None:
    device = federation.device(11)
    federation.grid.nodes = {1: on_train(device, failing)}
    federation.run(rounds=1)
    federation.grid.nodes = {1: device}
    federation.run(rounds=2)
    assert [(instruction.round, instruction.adapter_version) for instruction in device.seen] == [(2, 0)]


def test_nothing_is_asked_when_all_rounds_are_done(federation: Federation) -> None:
    device = federation.device(11)
    federation.grid.nodes = {1: device}
    federation.run(rounds=1)
    federation.run(rounds=1)
    assert len(device.seen) == 1


def test_an_update_for_an_earlier_version_is_refused(federation: Federation) -> None:
    device = federation.device(2)

    def stale(message: Message) -> Message:
        reply = device(message)
        assert reply is not None
        if message.content.config_records["config"]["round"] == 2:
            values = {"head.weight": np.ones((4, 4), dtype=np.float32)}
            return Message(reply_records(device.seen[0], values), reply_to=message)
        return reply

    federation.grid.nodes = {1: on_train(device, stale)}
    federation.run(rounds=2)
    failure = read_rounds(federation.state.history)[1].failures[0]
    assert "adapter_version is 0, the instruction's 1" in failure.reason


def test_flowers_own_loop_can_run_the_strategy_as_well(federation: Federation) -> None:
    federation.grid.nodes = {1: federation.device(0, step=2), 2: federation.device(5, step=5)}
    strategy = federation.strategy(rounds=2)
    initial = encode_arrays(strategy.checkpoint.adapter.tensors)
    arrays = strategy.start(federation.grid, initial, num_rounds=2).arrays
    assert isinstance(arrays, ArrayRecord)
    moved = arrays["positions"].numpy() - initial["positions"].numpy()
    assert np.allclose(moved[:, 0], [7.0] * 2 + [10.0] * 5 + [0.0] * 6)


def test_a_reply_without_records_is_refused_and_not_a_crash(federation: Federation) -> None:
    federation.grid.nodes = {
        1: federation.device(2),
        2: on_train(federation.device(2), lambda message: Message(RecordDict(), reply_to=message)),
    }
    federation.run()
    (record,) = read_rounds(federation.state.history)
    assert [failure.kind for failure in record.failures] == ["refused"]
