"""Image folders: one subfolder for each class, images decoded when they are needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgefl.errors import SamplesError
from edgefl.samples.arrays import check_labels

__all__ = ["ImageFolder", "decode_image", "read_image"]

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})

# Those of the suffixes alone: Pillow knows formats that start another program.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")


class ImageFolder:
    """Images on disk.

    A subfolder's name is the number of its class, as `0`, `1`, ...; other names are allowed where the folder has a
    subfolder for every class, which are then numbered in the order of their names.

    Attributes:
        labels: (N,), int64.
    """

    def __init__(self, folder: Path, classes: int) -> None:
        """List a folder's images; none is decoded yet.

        Args:
            folder: The folder.
            classes: Number of classes of the model.

        Raises:
            SamplesError: If it is no folder, has no images, or its subfolders cannot be classes of the model.
        """
        subfolders = sorted(path for path in _listed(folder) if path.is_dir() and not path.name.startswith("."))
        numbers = _class_numbers(folder, [path.name for path in subfolders], classes)
        self._paths: list[Path] = []
        labels: list[int] = []
        for subfolder, number in zip(subfolders, numbers, strict=True):
            images = sorted(path for path in _listed(subfolder) if path.suffix.lower() in _SUFFIXES)
            self._paths += images
            labels += [number] * len(images)
        if not self._paths:
            raise SamplesError(
                f"{folder} has no images; expected one subfolder for each class, such as {folder}/0/a.png"
            )
        self.labels = check_labels(np.array(labels, np.int64), len(labels), classes)

    def read(self, indices: Sequence[int]) -> list[np.ndarray[Any, Any]]:
        """Decode images to uint8 RGB, (H, W, 3) each."""
        return [read_image(self._paths[index]) for index in indices]


def read_image(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode an image file to uint8 RGB, (H, W, 3).

    Raises:
        SamplesError: If it is no image, or one with more than 8 bits for a channel.
    """
    return decode_image(path, str(path))


def decode_image(
    source: Path | BinaryIO, name: str, most_pixels: float = math.inf
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode an image to uint8 RGB, (H, W, 3).

    Args:
        source: An encoded image.
        name: What it is called in messages.
        most_pixels: A larger image is refused before it is decoded; Pillow has a limit of its own.

    Raises:
        SamplesError: If it is no image, too large, or one with more than 8 bits for a channel.
    """
    if isinstance(source, Path) and source.exists() and not source.is_file():  # reading a pipe would wait for ever
        raise SamplesError(f"{name} cannot be read as an image: it is no file; remove or replace it")
    try:
        with Image.open(source, formats=_FORMATS) as image:
            return _decoded(image, most_pixels)
    except UnidentifiedImageError as error:  # its own message shows the object that was read
        formats = ", ".join(_FORMATS)
        raise SamplesError(f"{name} cannot be read as an image: it is none of {formats}; replace it") from error
    except Exception as error:  # damaged files make Pillow's decoders raise whatever comes
        raise SamplesError(f"{name} cannot be read as an image: {error}; remove or replace it") from error


def _decoded(image: Image.Image, most_pixels: float) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if image.width * image.height > most_pixels:
        raise ValueError(f"it has {image.width} x {image.height} pixels, more than {most_pixels:.0f}")
    if image.mode.startswith(("I", "F")):
        raise ValueError("it has more than 8 bits for a channel")
    # Pillow warns of transparent palettes unless their transparency is decoded, too.
    opaque = image.convert("RGBA") if "transparency" in image.info else image
    return np.asarray(opaque.convert("RGB"))


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise SamplesError(f"samples {folder}: {error.strerror}; name a folder of images or module:function") from error


def _class_numbers(folder: Path, names: list[str], classes: int) -> list[int]:
    if all(name.isascii() and name.isdigit() for name in names):
        if wrong := [name for name in names if int(name) >= classes]:
            raise SamplesError(f"{folder / wrong[0]}: the model has classes 0 to {classes - 1}; remove the subfolder")
        return [int(name) for name in names]
    if len(names) == classes:
        return list(range(classes))
    raise SamplesError(
        f"{folder} has {len(names)} subfolders with names, the model has {classes} classes: "
        f"name each subfolder by its class number, 0 to {classes - 1}, or have one for every class"
    )
