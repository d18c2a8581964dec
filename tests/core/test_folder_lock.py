"""One process at a time in a state folder (edgefl/core/folder_lock.py)."""

from __future__ import annotations

import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgefl.core.folder_lock import locked_folder, wait_until_unlocked
from edgefl.errors import StorageError


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    refused = pytest.raises(StorageError, match="in use by another edgefl server; stop that one")
    with locked_folder(folder, "server"), refused, locked_folder(folder, "server"):
        pass
    with locked_folder(folder, "server") as held:
        assert held == folder


def test_the_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    with locked_folder(tmp_path / "a" / "b", "client") as held:
        assert stat.S_IMODE(held.stat().st_mode) == 0o700


def test_a_path_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="another --state"), locked_folder(tmp_path / "file", "client"):
        pass


def test_who_has_no_such_option_is_told_something_else(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = pytest.raises(StorageError, match=r"in use by another edgefl personalize; stop that one or copy it")
    with locked_folder(tmp_path, "personalize", "copy it"), refused, locked_folder(tmp_path, "personalize", "copy it"):
        pass
    refused = pytest.raises(StorageError, match=r"cannot use .*file: File exists; copy it")
    with refused, locked_folder(tmp_path / "file", "personalize", "copy it"):
        pass


def test_who_waits_for_a_folder_goes_on_when_its_holder_was_killed(tmp_path: Path) -> None:
    holding = "import sys; from pathlib import Path; from edgefl.core.folder_lock import locked_folder\n"
    holding += f"with locked_folder(Path({str(tmp_path)!r}), 'server'): print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", holding], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        waiting = threading.Thread(target=wait_until_unlocked, args=(tmp_path,))
        waiting.start()
        assert waiting.is_alive()
        holder.kill()
        waiting.join(30)
        assert not waiting.is_alive()
