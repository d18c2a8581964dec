"""Tokens pair devices once, and revoked ones stay out (edgefl_server/host/devices.py)."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from edgefl.errors import BadInputError, StorageError
from edgefl_server.host.devices import Device, Registry, TokenError

KEY, OTHER = b"key of a device", b"key of another one"
NOW = 1000.0


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "devices.db")


def test_a_token_pairs_one_device(registry: Registry) -> None:
    token = registry.new_token("kitchen", NOW, 60.0)

    device = registry.pair(token, KEY, NOW + 59.0)

    assert device == Device(number=1, public_key=KEY, name="kitchen", paired_at=NOW + 59.0, revoked_at=None)
    assert registry.devices() == [device]
    assert registry.device_of(KEY) == device
    assert registry.device_of(OTHER) is None


def test_a_device_whose_answer_was_lost_may_say_its_token_again_however_late(registry: Registry) -> None:
    token = registry.new_token("kitchen", NOW, 60.0)
    device = registry.pair(token, KEY, NOW)
    assert registry.pair(token, KEY, NOW + 1e6) == device


def test_a_token_that_was_used_is_refused_to_others(registry: Registry) -> None:
    token = registry.new_token("kitchen", NOW, 60.0)
    registry.pair(token, KEY, NOW)
    with pytest.raises(TokenError, match="used before"):
        registry.pair(token, OTHER, NOW)
    assert registry.device_of(OTHER) is None


def test_a_token_that_is_too_old_is_refused(registry: Registry) -> None:
    token = registry.new_token("kitchen", NOW, 60.0)
    with pytest.raises(TokenError, match="expired"):
        registry.pair(token, KEY, NOW + 60.1)
    assert registry.devices() == []


def test_a_token_that_nobody_made_is_refused(registry: Registry) -> None:
    with pytest.raises(TokenError, match="has not made that token"):
        registry.pair(bytes(16), KEY, NOW)


def test_a_second_token_leaves_a_device_the_one_it_is(registry: Registry) -> None:
    first = registry.pair(registry.new_token("kitchen", NOW, 60.0), KEY, NOW)
    assert registry.pair(registry.new_token("hall", NOW, 60.0), KEY, NOW + 1.0) == first


def test_a_revoked_device_stays_so_whatever_token_it_has(registry: Registry) -> None:
    registry.pair(registry.new_token("kitchen", NOW, 60.0), KEY, NOW)

    assert registry.revoke(1, NOW + 5.0).revoked_at == NOW + 5.0
    assert registry.revoke(1, NOW + 9.0).revoked_at == NOW + 5.0
    with pytest.raises(TokenError, match="was revoked"):
        registry.pair(registry.new_token("again", NOW, 60.0), KEY, NOW)


def test_a_device_that_is_not_there_cannot_be_revoked(registry: Registry) -> None:
    with pytest.raises(BadInputError, match="no device 7"):
        registry.revoke(7, NOW)


def test_of_many_devices_with_one_token_one_is_paired(registry: Registry) -> None:
    token = registry.new_token("kitchen", NOW, 60.0)
    paired: list[int] = []

    def pair(number: int) -> None:
        try:
            registry.pair(token, b"key %d" % number, NOW)
            paired.append(number)
        except TokenError:
            pass

    threads = [threading.Thread(target=pair, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(paired) == len(registry.devices()) == 1


def test_secrets_are_not_on_the_disk(registry: Registry, tmp_path: Path) -> None:
    token = registry.new_token("kitchen", NOW, 60.0)
    assert token not in (tmp_path / "devices.db").read_bytes()


def test_another_process_sees_what_was_changed(registry: Registry, tmp_path: Path) -> None:
    registry.pair(registry.new_token("kitchen", NOW, 60.0), KEY, NOW)
    assert Registry(tmp_path / "devices.db").devices() == registry.devices()


def test_a_newer_registry_is_left_alone(registry: Registry, tmp_path: Path) -> None:
    del registry
    with sqlite3.connect(tmp_path / "devices.db") as database:
        database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(StorageError, match="written by a newer edgefl: version 2"):
        Registry(tmp_path / "devices.db")


@pytest.mark.parametrize("content", [b"no database at all, although long enough to have a header" * 10, None])
def test_a_file_that_is_no_registry_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "devices.db"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(StorageError, match="cannot use"):
        Registry(path)
