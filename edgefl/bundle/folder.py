"""Open a bundle's folder: contained paths, checked hashes, mapped tensors."""

from __future__ import annotations

import hashlib
import mmap
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgefl.bundle.adapter import Adapter, read_adapter
from edgefl.bundle.manifest import Manifest, read_manifest
from edgefl.bundle.program import Program
from edgefl.core.tensor_slice import TensorSlice
from edgefl.errors import (
    HashError,
    ManifestError,
    MissingFileError,
    NotABundleError,
    PathOutsideError,
    StorageError,
    UnknownProgramError,
)

__all__ = ["Bundle"]

_MAX_MANIFEST_BYTES = 64 * 1024 * 1024


class Bundle:
    """A bundle on this machine's disk.

    Attributes:
        folder: The folder, resolved.
        manifest: Its checked manifest.
    """

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        """Open a folder.

        Args:
            folder: The bundle's folder.
            verify: Whether to hash every file; without it only presence and size are checked.

        Raises:
            NotABundleError: If the folder has no manifest.
            BundleError: As the error tree lists, for everything else a bundle can have wrong.
            StorageError: If a file cannot be read.
        """
        self.folder = folder.resolve()
        self.manifest: Manifest = read_manifest(_manifest_text(self.folder))
        for path in self.manifest.files:
            self._check_file(path, verify=verify)
        self.path(self.manifest.adapter.file)

    def path(self, name: str) -> Path:
        """Return the path of a file of the bundle.

        Raises:
            PathOutsideError: If a link leads outside the folder.
            MissingFileError: If it is not there.
            StorageError: If the system cannot tell.
        """
        try:
            path = (self.folder / name).resolve()
            found = path.is_file()
        except RuntimeError:  # how Python 3.11 speaks of links that lead in a circle
            path, found = self.folder / name, False
        except OSError as error:
            raise StorageError(f"cannot read {self.folder / name}: {error.strerror}") from error
        if not path.is_relative_to(self.folder):
            raise PathOutsideError(f"{name!r} leads outside {self.folder}; do not use this bundle")
        if not found:
            raise MissingFileError(f"{self.folder} has no file {name!r}, its manifest names it; copy the bundle again")
        return path

    def program(self, name: str) -> Program:
        """Return a program by name.

        Raises:
            UnknownProgramError: If the bundle does not have it.
        """
        programs, variant = self.manifest.programs, self.manifest.variants.get(name)
        if variant is not None:
            return msgspec.structs.replace(programs[variant.program], batch=variant.batch)
        if name not in programs:
            raise UnknownProgramError(
                f"no program {name!r} in {self.folder}; it has {', '.join((*programs, *self.manifest.variants))}"
            )
        return programs[name]

    def packs(self, name: str) -> bool:
        """Say whether a program, by name, runs the packed graphs."""
        variant = self.manifest.variants.get(name)
        return variant is not None and variant.packed

    def adapter(self, path: Path | None = None) -> Adapter:
        """Map the bundle's adapter, or another file with the same layout.

        Args:
            path: Another adapter of this bundle; None for its own.

        Raises:
            AdapterLayoutError: If it belongs to another bundle.
            AdapterValueError: If it has NaN or infinite values.
            HashError: If its data were changed.
        """
        return read_adapter(path if path is not None else self.path(self.manifest.adapter.file), self.manifest)

    def frozen(self, key: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return a frozen tensor, or a part of one, as a read-only view of its mapped file.

        Args:
            key: `name` or `name[start:stop]`.
        """
        part = TensorSlice.parse(key)
        tensor = self.manifest.tensors[part.name]
        mapped = self._mapped[tensor.file]
        return np.ndarray(tuple(tensor.shape), np.float32, mapped, tensor.offset)[part.index]

    def release(self) -> None:
        """Let the kernel drop the pages of frozen tensors; they come back from their file when they are read again."""
        if hasattr(mmap, "MADV_DONTNEED"):  # Windows has no such call
            for mapped in self._mapped.values():
                mapped.madvise(mmap.MADV_DONTNEED)

    @cached_property
    def _mapped(self) -> dict[str, mmap.mmap]:
        files = {tensor.file for tensor in self.manifest.tensors.values()} - {self.manifest.adapter.file}
        return {file: _map(self.path(file)) for file in files}

    def _check_file(self, name: str, *, verify: bool) -> None:
        expected = self.manifest.files[name]
        path = self.path(name)
        if path.stat().st_size != expected.size:
            raise HashError(f"{path} has {path.stat().st_size} bytes, expected {expected.size}; copy the bundle again")
        if verify and _sha256(path) != expected.sha256:
            raise HashError(f"{path} is not the file that was exported: its sha256 differs; copy the bundle again")


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _manifest_text(folder: Path) -> bytes:
    path = folder / "manifest.json"
    try:
        if path.is_symlink() and not path.resolve().is_relative_to(folder):
            raise PathOutsideError(f"{path} leads outside {folder}; do not use this bundle")
        if not path.is_file():  # reading a pipe would wait for ever
            raise NotABundleError(f"{folder} is no bundle: it has no manifest.json; make one with `edgefl export`")
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise ManifestError(f"{path} is larger than {_MAX_MANIFEST_BYTES} bytes; it is no manifest")
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
