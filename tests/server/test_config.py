"""The operator's configuration (edgefl_server/host/config.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefl.errors import BadInputError, StorageError
from edgefl_server.host.config import load_config
from edgefl_server.host.front import Limits

WHOLE = """
version = 1
bundle = "../bundle"
names = ["fed.example", "192.0.2.7"]
listen = "[::1]:9443"

[training]
rounds = 20
learning_rate = 0.002
draw = "own"

[limits]
body_seconds = 30
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_what_is_written_down_is_what_is_run(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()

    config, settings = load_config(written(state, WHOLE))

    assert config.names == ["fed.example", "192.0.2.7"]
    assert config.address == ("::1", 9443)
    assert config.limits == Limits(body_seconds=30.0)
    assert (settings.bundle, settings.state) == (str(tmp_path / "bundle"), str(state))
    assert (settings.rounds, settings.learning_rate, settings.draw) == (20, 0.002, "own")
    assert settings.quorum == 0.5


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    text = 'version = 1\nbundle = "b"\nnames = ["a"]\n[training]\nrounds = 1\n'
    config, _ = load_config(written(tmp_path, text))
    assert (config.address, config.limits) == (("0.0.0.0", 8443), Limits())  # noqa: S104  # as it is documented


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("version = 1", "", "version is None"),
        ("version = 1", 'version = "1"', "version is '1'"),
        ('bundle = "../bundle"', "", "bundle"),
        ('names = ["fed.example", "192.0.2.7"]', "names = []", "names"),
        ("[limits]", "[limit]", "limit"),
        ("body_seconds = 30", "body_second = 30", "body_second"),
        ("body_seconds = 30", "body_seconds = 0", "body_seconds"),
        ("rounds = 20", "", "rounds"),
        ("rounds = 20", "round = 20", "round"),
        ("rounds = 20", "rounds = 0", "rounds"),
        ("rounds = 20", 'rounds = 20\nstate = "x"', "`state` has no place"),
        ('listen = "[::1]:9443"', 'listen = "8443"', "no address and port"),
        ('listen = "[::1]:9443"', 'listen = "::1:8443"', "no address and port"),
        ('listen = "[::1]:9443"', 'listen = "0.0.0.0:65536"', "no address and port"),
        ("[training]", "[training", "is no TOML"),
    ],
)
def test_what_is_wrong_is_refused_by_its_name(tmp_path: Path, old: str, new: str, fault: str) -> None:
    assert old in WHOLE
    with pytest.raises(BadInputError, match=fault.replace("[", r"\[")) as refused:
        load_config(written(tmp_path, WHOLE.replace(old, new)))
    assert "config.toml" in str(refused.value)


def test_a_newer_configuration_is_not_guessed_at(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="version 2, this edgefl knows 1"):
        load_config(written(tmp_path, WHOLE.replace("version = 1", "version = 2") + "\nsomething = 1"))


def test_a_configuration_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="server init"):
        load_config(tmp_path / "config.toml")


def test_bytes_that_are_no_text_are_no_toml(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInputError, match="is no TOML"):
        load_config(tmp_path / "config.toml")
