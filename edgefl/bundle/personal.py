"""A device's own adapter beside the global one: `personal/adapter.safetensors` in the bundle's folder."""

from __future__ import annotations

import logging
from pathlib import Path

from edgefl.bundle.adapter import Adapter
from edgefl.bundle.folder import Bundle
from edgefl.errors import StorageError

__all__ = ["current_adapter", "personal_adapter", "personal_folder", "personal_path"]

logger = logging.getLogger(__name__)


def personal_folder(folder: Path) -> Path:
    """Return where `edgefl personalize` keeps what it makes of a bundle."""
    return folder / "personal"


def personal_path(folder: Path) -> Path:
    """Return where the personal adapter of a bundle's folder lies."""
    return personal_folder(folder) / "adapter.safetensors"


def personal_adapter(bundle: Bundle, own: Adapter) -> Adapter | None:
    """Return the personal adapter, or None where there is none that was made from the global one.

    Args:
        bundle: The bundle.
        own: Its global adapter.

    Raises:
        BundleError: If the personal one cannot be used.
        StorageError: If this user may not look.
    """
    path = personal_path(bundle.folder)
    try:
        if not path.exists():
            return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}; run it as the user who personalized") from error
    personal = bundle.adapter(path)
    if (personal.version, personal.round) == (own.version, own.round):
        return personal
    logger.warning(
        "%s was made from version %d, the bundle has version %d; run edgefl personalize again",
        path, personal.version, own.version,
    )  # fmt: skip
    return None


def current_adapter(bundle: Bundle, path: Path | None = None) -> Adapter:
    """Return the adapter to answer with: the personal one where there is one of the global one's version.

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
