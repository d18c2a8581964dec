"""What the operator of a federation writes down: `config.toml` in the state folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import msgspec

from edgefl.errors import BadInputError, StorageError
from edgefl_server.host.front import Limits
from edgefl_server.settings import Scalar, Settings

__all__ = ["Config", "load_config"]

_VERSION = 1
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.%]+\]|[^\[\]:]+):(?P<port>\d{1,5})")
_FROM_ELSEWHERE = ("bundle", "state")


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A federation.

    Attributes:
        version: Of this file's format.
        bundle: Folder of the bundle that is trained; a relative one lies beside the file.
        names: Host names and addresses by which devices reach the server, at least one.
        listen: Address and port that the front listens on.
        training: Settings of the run, without `bundle` and `state`.
        limits: What one device may ask.
    """

    version: int
    bundle: str
    names: Annotated[list[str], msgspec.Meta(min_length=1)]
    listen: str = "0.0.0.0:8443"  # the front is made to be reached
    training: dict[str, Scalar]
    limits: Limits = Limits()

    @property
    def address(self) -> tuple[str, int]:
        """Host, without brackets, and port to listen on.

        Raises:
            BadInputError: If `listen` is none.
        """
        match = _ADDRESS.fullmatch(self.listen)
        if match is None or int(match["port"]) > 65535:  # the largest port
            raise BadInputError(f"listen = {self.listen!r} is no address and port, such as 0.0.0.0:8443 or [::]:8443")
        return match["host"].strip("[]"), int(match["port"])


def load_config(path: Path) -> tuple[Config, Settings]:
    """Read and check a configuration.

    Args:
        path: The file, in the state folder.

    Returns:
        All of it, and the settings of its run.

    Raises:
        BadInputError: If it is not TOML, or a key is missing, unknown, of the wrong type or out of range.
        StorageError: If it cannot be read, or a newer edgefl wrote it.
    """
    try:
        table = msgspec.toml.decode(path.read_bytes())
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}; `edgefl server init` writes one") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} is no TOML: {error}") from error
    _check_version(table.get("version"), path)
    try:
        config = msgspec.convert(table, Config)
        settings = _settings(config, path.parent.resolve())
        _ = config.address
    except (msgspec.ValidationError, BadInputError) as error:
        raise BadInputError(f"{path}: {error}") from error
    return config, settings


def _settings(config: Config, folder: Path) -> Settings:
    for name in _FROM_ELSEWHERE:
        if name in config.training:
            raise BadInputError(f"`{name}` has no place in [training]")
    folders = {"bundle": str((folder / config.bundle).resolve()), "state": str(folder)}
    return Settings.from_run_config({**config.training, **folders})


def _check_version(version: object, path: Path) -> None:
    if not isinstance(version, int) or version < 1:
        raise BadInputError(f"{path}: version is {version!r}, expected {_VERSION}")
    if version > _VERSION:
        raise StorageError(f"{path} is of version {version}, this edgefl knows {_VERSION}; upgrade edgefl")
