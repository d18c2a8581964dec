"""What survives a crash of the client, whenever it comes (edgefl/fleet/journal.py)."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest

from edgefl.errors import StorageError
from edgefl.fleet import fleet_pb2
from edgefl.fleet.content import Content
from edgefl.fleet.journal import Journal
from edgefl.fleet.parcel import Parcel, pack_reply

INSTRUCTION = fleet_pb2.Metadata(run_id=2**63, message_id="1f" * 32, ttl=60.0, created_at=1e9, message_type="train")
PARCEL = pack_reply(INSTRUCTION, Content(arrays={"weight": np.ones((300, 1000), np.float32)}), 1e9)


def test_a_new_folder_is_empty_and_private(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state" / "node")
    assert stat.S_IMODE((tmp_path / "state" / "node").stat().st_mode) == 0o700
    assert journal.load_node_id() is None
    assert journal.instruction.load() is None
    assert journal.reply.load() is None
    journal.reply.forget()


def test_what_was_saved_is_there_in_the_next_process(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.save_node_id(2**64 - 1)
    journal.instruction.save(Parcel(message=PARCEL.message, tree=PARCEL.tree, attempts=2))
    journal.reply.save(PARCEL)
    restarted = Journal(tmp_path)
    assert restarted.load_node_id() == 2**64 - 1
    assert restarted.reply.load() == PARCEL
    assert restarted.instruction.load() == Parcel(message=PARCEL.message, tree=PARCEL.tree, attempts=2)
    restarted.instruction.forget()
    assert Journal(tmp_path).instruction.load() is None
    assert Journal(tmp_path).reply.load() == PARCEL


@pytest.mark.parametrize("kept_fraction", [0.0, 0.00001, 0.5, 0.999999])
def test_a_file_cut_short_is_discarded_with_a_warning(
    tmp_path: Path, kept_fraction: float, caplog: pytest.LogCaptureFixture
) -> None:
    Journal(tmp_path).reply.save(PARCEL)
    content = (tmp_path / "reply").read_bytes()
    (tmp_path / "reply").write_bytes(content[: int(len(content) * kept_fraction)])
    assert Journal(tmp_path).reply.load() is None
    assert "reply is damaged" in caplog.text
    assert not (tmp_path / "reply").exists()


@pytest.mark.parametrize("position", [0, 20, 60, -1])
def test_a_file_with_one_wrong_bit_is_discarded(tmp_path: Path, position: int) -> None:
    Journal(tmp_path).reply.save(PARCEL)
    content = bytearray((tmp_path / "reply").read_bytes())
    content[position] ^= 1
    (tmp_path / "reply").write_bytes(content)
    assert Journal(tmp_path).reply.load() is None


@pytest.mark.parametrize("text", ["", "{}", '{"node_id": 7}', '{"node_id": "0"}', '{"node_id": "seven"}', "\xff", "["])
def test_a_damaged_node_id_is_discarded_with_a_warning(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "node.json").write_text(text, encoding="latin-1")
    assert Journal(tmp_path).load_node_id() is None
    assert "node.json is damaged" in caplog.text


def test_the_half_written_file_of_a_crash_is_no_parcel_and_is_cleared_away(tmp_path: Path) -> None:
    Journal(tmp_path).reply.save(PARCEL)
    # What write_atomically leaves when the power goes before the rename.
    (tmp_path / ".reply.x1y2z3").write_bytes(b"edgefl-journal 1\n")
    assert Journal(tmp_path).reply.load() == PARCEL
    assert [path.name for path in tmp_path.iterdir()] == ["reply"]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot use the state folder"):
        Journal(tmp_path / "file" / "state")


def test_a_file_that_cannot_be_read_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "reply").mkdir()
    with pytest.raises(StorageError, match="cannot read"):
        Journal(tmp_path).reply.load()
