"""A new folder that takes its name only when everything in it is written and checked."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgefl.errors import BadInputError, StorageError

__all__ = ["new_folder"]


@contextmanager
def new_folder(out: Path, *, force: bool) -> Iterator[Path]:
    """Give a folder to write into that is renamed at the end, or removed with all it holds.

    Args:
        out: The final folder.
        force: Whether an existing bundle of that name is replaced.

    Raises:
        BadInputError: If `out` exists and is not to be replaced, or is no bundle but a link or something else.
        StorageError: If its parent cannot be written.
    """
    try:
        _check_free(out, force=force)
        missing = [parent for parent in out.parents if not parent.exists()]
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except FileExistsError as error:
        raise StorageError(f"cannot write {out}: {out.parent} is no folder; choose another --out") from error
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror}; choose an --out you may write") from error
    try:
        yield partial
        partial.chmod(0o755)
        _check_free(out, force=force)  # once more: an export takes a minute
        _put_in_place(partial, out)
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror}; free some space or choose another --out") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in missing:
            # Empty only if nothing came of it.
            with suppress(OSError):
                parent.rmdir()


def _put_in_place(partial: Path, out: Path) -> None:
    """Rename a folder; one that has the name already is put aside first, and put back if that fails."""
    if not out.exists():
        partial.rename(out)
        return
    aside = partial.with_name(f"{partial.name}.old")
    try:
        out.rename(aside)
        partial.rename(out)
    except BaseException:
        if aside.exists() and not out.exists():
            aside.rename(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _check_free(out: Path, *, force: bool) -> None:
    if not (out.exists() or out.is_symlink()):
        return
    if out.is_symlink() or not (out / "manifest.json").is_file():
        raise BadInputError(f"{out} exists and is no bundle; choose another --out")
    if not force:
        raise BadInputError(f"{out} exists; pass --force to replace it and its adapter, or choose another --out")
