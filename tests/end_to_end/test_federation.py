"""A whole federation of processes: `edgefl server run` and three clients of different depth, one of which dies."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pytest

import edgefl
from edgefl.bundle import Bundle
from edgefl.core.tensor_slice import TensorSlice
from edgefl_server.host.state import StateFolder
from edgefl_server.rounds.history import RoundRecord, read_rounds
from tests.end_to_end.devices import SECONDS, Device, make_device
from tests.end_to_end.federation import ROUNDS, expected_adapter, running_server
from tests.golden_bundle import EXITS, GOLDEN, random_samples
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """What a federation left.

    Attributes:
        state: The server's folder.
        devices: The devices.
        was_killed_after: The last round that was done when a client was killed.
    """

    state: StateFolder
    devices: list[Device]
    was_killed_after: int

    @property
    def rounds(self) -> list[RoundRecord]:
        """Its history."""
        return read_rounds(self.state.history)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Run three rounds; kill the client of tier 1 after the first and start it again."""
    folder = tmp_path_factory.mktemp("federation")
    state = StateFolder(folder / "server")
    devices = [make_device(folder / f"tier-{e}", e, num_examples=6 + 3 * e) for e in EXITS]
    with ExitStack() as stack:
        server, url = stack.enter_context(running_server(state))
        shallow, fragile, deep = devices
        for device in (shallow, deep):
            stack.enter_context(device.running(url))
        with fragile.running(url) as process:
            wait_until(lambda: len(read_rounds(state.history)) > 0, SECONDS, "a round is done")
            process.kill()
        was_killed_after = len(read_rounds(state.history))
        stack.enter_context(fragile.running(url))
        assert server.wait(SECONDS) == 0
    return Federation(state=state, devices=devices, was_killed_after=was_killed_after)


def test_the_history_has_every_round_and_what_each_client_did(federation: Federation) -> None:
    assert [(record.round, record.adapter_version) for record in federation.rounds] == [(1, 1), (2, 2), (3, 3)]
    for record in federation.rounds:
        trained = {reply.exit_index: reply.num_examples for reply in record.replies}
        assert trained.items() <= {0: 6, 1: 9, 2: 12}.items()
        assert len(record.replies) + len(record.failures) == len(record.cohort) == len(EXITS)


def test_a_client_that_was_killed_takes_part_again_as_the_same_node(federation: Federation) -> None:
    first, _, last = ({reply.exit_index: reply.node_id for reply in each.replies} for each in federation.rounds)

    assert federation.was_killed_after < ROUNDS
    assert set(last) == set(EXITS)
    assert last == first


def test_the_aggregated_adapter_fits_the_bundle_and_answers_at_every_exit(federation: Federation) -> None:
    model = edgefl.load(GOLDEN, adapter=federation.state.adapter)

    predictions = list(model.infer(random_samples(3)[0]))

    assert [prediction.exit_index for prediction in predictions] == list(EXITS)
    assert all(np.isfinite(prediction.logits).all() for prediction in predictions)
    adapter = Bundle(GOLDEN).adapter(federation.state.adapter)
    assert (adapter.version, adapter.round) == (ROUNDS, ROUNDS)


def test_every_element_is_the_mean_over_the_clients_that_trained_it(federation: Federation) -> None:
    found = Bundle(GOLDEN).adapter(federation.state.adapter).tensors

    for name, expected in expected_adapter(federation.devices, federation.rounds).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("key", ["accumulator.positions[3:4]", "parallel_adapters.up_weight[2:3]"])
def test_what_only_the_deepest_client_trains_is_what_it_alone_makes_of_it(federation: Federation, key: str) -> None:
    part, exported = TensorSlice.parse(key), Bundle(GOLDEN).adapter().tensors
    found = Bundle(GOLDEN).adapter(federation.state.adapter).tensors[part.name][part.index]

    expected = expected_adapter(federation.devices, federation.rounds)[part.name][part.index]

    assert (found != exported[part.name][part.index]).any()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_what_nobody_trained_keeps_its_exact_bits(federation: Federation) -> None:
    # Exit 2 reaches the position rows 0 to 3; the golden bundle has five.
    found, exported = (
        adapter.tensors["accumulator.positions"]
        for adapter in (Bundle(GOLDEN).adapter(federation.state.adapter), Bundle(GOLDEN).adapter())
    )

    assert found[4].tobytes() == exported[4].tobytes()
    assert all((found[row] != exported[row]).any() for row in range(4))
