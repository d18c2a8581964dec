"""A device's own adapter beside the global one, in its folder `personal`, named by the one it was made from."""

from __future__ import annotations

import logging
from pathlib import Path

from edgefl.bundle.adapter import Adapter
from edgefl.bundle.folder import Bundle
from edgefl.errors import BadInputError, StorageError

__all__ = ["current_adapter", "personal_adapter", "personal_files", "personal_folder", "personal_path"]

logger = logging.getLogger(__name__)


def personal_folder(folder: Path) -> Path:
    """Return where `edgefl personalize` keeps what it makes of a bundle."""
    return folder / "personal"


def personal_path(folder: Path, own: Adapter) -> Path:
    """Return where the personal adapter of a bundle's folder lies that was made from a global one.

    Another global adapter has another digest: what was made from the one before is not found for it.
    """
    return personal_folder(folder) / f"{own.digest()[:16]}.safetensors"


def personal_files(folder: Path) -> list[Path]:
    """Return all personal adapters of a bundle's folder, whichever global one they were made from.

    Raises:
        StorageError: If this user may not look.
    """
    where = personal_folder(folder)
    try:
        return sorted(path for path in where.iterdir() if path.suffix == ".safetensors" and path.name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StorageError(f"cannot read {where}: {error.strerror}; run it as the user who personalized") from error


def personal_adapter(bundle: Bundle, own: Adapter) -> Adapter | None:
    """Return the personal adapter, or None where there is none that was made from the global one.

    Args:
        bundle: The bundle.
        own: Its global adapter.

    Raises:
        BundleError: If the personal one cannot be used.
        StorageError: If this user may not look.
    """
    files = personal_files(bundle.folder)
    path = personal_path(bundle.folder, own)
    if path in files:
        try:
            return bundle.adapter(path)
        except BadInputError as error:
            raise type(error)(f"{error}; `edgefl personalize {bundle.folder} --undo` removes it") from error
    if files:
        logger.warning("%s was made from another global adapter; run edgefl personalize again", files[0])
    return None


def current_adapter(bundle: Bundle, path: Path | None = None) -> Adapter:
    """Return the adapter to answer with: the personal one where there is one that was made from the global one.

    Args:
        bundle: The bundle.
        path: An adapter to take whatever there is; None to choose.

    Raises:
        BundleError: If the adapter cannot be used.
        StorageError: If it cannot be read.
    """
    if path is not None:
        return bundle.adapter(path)
    own = bundle.adapter()
    return personal_adapter(bundle, own) or own
