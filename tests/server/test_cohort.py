"""The server asks each node once in a session and knows its tier from then on."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from edgefl.bundle import Bundle
from edgefl.bundle.manifest import Manifest
from edgefl_server.rounds.cohort import Cohort
from edgefl_server.rounds.collect import Limits
from tests.server.toy_federation import Respond, ToyDevice, ToyGrid, failing, silent
from tests.toy_bundle import write_toy_bundle

QUICK = Limits(deadline_seconds=0.2, poll_seconds=0.01)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return Bundle(write_toy_bundle(tmp_path / "toy")).manifest


def counted(respond: Respond, questions: list[int]) -> Respond:
    def answer(message: Message) -> Message | None:
        questions.append(message.metadata.dst_node_id)
        return respond(message)

    return answer


def test_the_deepest_exit_each_device_reports_makes_its_tier(manifest: Manifest) -> None:
    grid = ToyGrid({7: ToyDevice(manifest.bundle_id, 11), 8: ToyDevice(manifest.bundle_id, 4)})
    assert Cohort(manifest, QUICK).members(grid) == {7: 11, 8: 2}


def test_a_node_is_asked_once_in_each_of_its_sessions(manifest: Manifest) -> None:
    questions: list[int] = []
    grid = ToyGrid({7: counted(ToyDevice(manifest.bundle_id, 5), questions)})
    cohort = Cohort(manifest, QUICK)
    cohort.members(grid)
    cohort.members(grid)
    assert questions == [7]

    grid.session = "restarted"
    grid.nodes = {7: counted(ToyDevice(manifest.bundle_id, 2), questions)}
    assert cohort.members(grid) == {7: 2}
    assert questions == [7, 7]


@pytest.mark.parametrize("respond", [silent, failing])
def test_a_node_that_does_not_answer_takes_no_part_and_is_asked_again(manifest: Manifest, respond: Respond) -> None:
    grid = ToyGrid({7: respond})
    cohort = Cohort(manifest, QUICK)
    assert cohort.members(grid) == {}
    grid.nodes = {7: ToyDevice(manifest.bundle_id, 5)}
    assert cohort.members(grid) == {7: 5}


def test_a_node_with_another_bundle_is_refused_and_the_log_says_why(
    manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    grid = ToyGrid({7: ToyDevice("another", 5), 8: ToyDevice(manifest.bundle_id, 5)})
    assert Cohort(manifest, QUICK).members(grid) == {8: 5}
    assert "node 7 takes no part: it holds bundle 'another'" in caplog.text


def test_properties_that_are_none_are_refused(manifest: Manifest, caplog: pytest.LogCaptureFixture) -> None:
    def nonsense(message: Message) -> Message:
        return Message(RecordDict({"properties": ConfigRecord({"edgefl": 1, "deepest_exit": "all"})}), reply_to=message)

    assert Cohort(manifest, QUICK).members(ToyGrid({7: nonsense})) == {}
    assert "node 7 takes no part" in caplog.text


def test_waiting_for_clients_is_told_when_their_number_changes_and_every_60_looks(
    manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    device = ToyDevice(manifest.bundle_id, 5)

    class Arriving(ToyGrid):
        looks = 0

        def get_nodes(self) -> list[object]:  # type: ignore[override]  # the same values, in a list
            self.looks += 1
            self.nodes = dict.fromkeys(range(self.looks // 100), device)
            return list(super().get_nodes())

    assert Cohort(manifest, QUICK, wait_seconds=0.001).wait_for(Arriving({}), 2) == {0: 5, 1: 5}
    waiting = [record.message for record in caplog.records if "waiting" in record.message]
    # Nobody for 99 looks, one for 100 more: told at the looks 0 and 60, then at 99, 120 and 180.
    assert waiting == [f"waiting for clients: {there} of 2 are there" for there in (0, 0, 1, 1, 1)]
