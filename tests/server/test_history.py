"""The history holds every round, one line each, even after a power cut."""

from __future__ import annotations

from pathlib import Path

from edgefl_server.rounds.history import (
    CohortMember,
    Failure,
    ReplyRecord,
    RoundRecord,
    append_round,
    read_rounds,
)


def a_round(number: int) -> RoundRecord:
    return RoundRecord(
        round=number,
        started="2026-01-31T12:00:00.000+00:00",
        seconds=2.5,
        learning_rate=1e-3,
        cohort=[CohortMember(node_id=2**63 + 1, exit_index=5), CohortMember(node_id=3, exit_index=0)],
        replies=[
            ReplyRecord(
                node_id=2**63 + 1,
                exit_index=5,
                num_examples=7,
                loss=0.25,
                train_seconds=1.0,
                peak_rss_bytes=100,
                bytes_up=400,
            )
        ],
        failures=[Failure(node_id=3, kind="missing", reason='no "reply"\nin time')],
        bytes_down=800,
        bytes_up=400,
        is_aggregated=True,
        adapter_version=number,
    )


def test_rounds_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    append_round(path, a_round(1))
    append_round(path, a_round(2))
    assert read_rounds(path) == [a_round(1), a_round(2)]
    assert len(path.read_text().splitlines()) == 2


def test_a_line_that_a_power_cut_tore_costs_that_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    append_round(path, a_round(1))
    append_round(path, a_round(2))
    path.write_bytes(path.read_bytes()[:-20])
    assert read_rounds(path) == [a_round(1)]
    append_round(path, a_round(3))
    assert read_rounds(path) == [a_round(1), a_round(3)]


def test_no_history_yet_is_no_rounds(tmp_path: Path) -> None:
    assert read_rounds(tmp_path / "history.jsonl") == []
