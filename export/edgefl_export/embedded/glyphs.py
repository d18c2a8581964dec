"""Draws the images on which the embedded backbone is pre-trained: distorted letters and symbols, never a digit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from edgefl.errors import SamplesError

__all__ = ["ALPHABET", "IMAGE_SIZE", "GlyphBank", "draw_bank", "draw_batch"]

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghijlmnqrty!#$%&()*+/<>?@{}£§¥¶ßæ"
"""One character a class.  Small c, k, o, p, s, u, v, w, x and z are left out: once cropped to their ink they
have the shape of their capitals, and two classes with one shape only teach noise.  Digits are left out because
the demo's task is to recognise digits: the backbone must not have seen them."""

IMAGE_SIZE = 32
"""Height and width of a training image in pixels, the input size of the backbone."""

_GLYPH_SIZE = 48
_LONGEST_SIDE = 38
_FONT_SIZE = 44
# A private-use code point: fonts answer it, like every character they lack, with their "missing" box.
_MISSING = "\ue0f7"
# Their letters are dingbats, one of them a circled digit, and Greek.
_SYMBOL_FAMILIES = frozenset({"D050000L", "Standard Symbols PS"})
_CAPITALS = list(range(26))  # indices into ALPHABET
_POOLED_SIZES = (8, 8, 8, 9, 10, 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class GlyphBank:
    """Every character of `ALPHABET` in every font, undistorted.

    Attributes:
        images: (glyphs, 48, 48) uint8, ink 255 on 0, centred.
        labels: (glyphs,) int64, index into `ALPHABET`.
        fonts: How many font files contributed.
    """

    images: Tensor
    labels: Tensor
    fonts: int


def draw_bank(folder: Path) -> GlyphBank:
    """Draw the alphabet in every .ttf and .otf file below a folder.

    A font that lacks a capital letter or draws symbols for letters is no Latin text font and is left out whole;
    other missing characters are left out one by one.

    Raises:
        SamplesError: If no file below the folder is a Latin text font, or if one is no font at all.
    """
    images: list[np.typing.NDArray[np.uint8]] = []
    labels: list[int] = []
    fonts = 0
    for path in _font_files(folder):
        glyphs = _draw_font(path)
        images += glyphs.values()
        labels += glyphs.keys()
        fonts += bool(glyphs)
    if not fonts:
        raise SamplesError(f"no Latin text font (.ttf or .otf) below {folder}; name a folder that has some")
    return GlyphBank(images=torch.from_numpy(np.stack(images)), labels=torch.tensor(labels), fonts=fonts)


def draw_batch(bank: GlyphBank, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Choose glyphs at random and distort each in its own way.

    Args:
        bank: The glyphs to choose from.
        count: Images to draw.
        generator: The only source of chance: the same state gives the same batch.

    Returns:
        Images (count, 1, 32, 32) float32 in 0..1 and labels (count,) int64.
    """
    chosen = torch.randint(len(bank.images), (count,), generator=generator)
    images = bank.images[chosen, None].float() / 255
    for distort in (_warp, _change_stroke, _crop_to_ink, _pool_and_enlarge, _change_contrast):
        images = distort(images, generator)
    return images, bank.labels[chosen]


def _font_files(folder: Path) -> list[Path]:
    # Sorted, because the order of the bank decides which glyph a seed draws.
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".ttf", ".otf"})


def _draw_font(path: Path) -> dict[int, np.typing.NDArray[np.uint8]]:
    """Draw one font; keys are indices into `ALPHABET`, empty for a font that is not for Latin text."""
    try:
        # The basic layout engine is part of every Pillow, so all machines shape alike.
        font = ImageFont.truetype(str(path), _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise SamplesError(f"{path} is no font that FreeType can read ({error}); remove it") from error
    missing = bytes(font.getmask(_MISSING))
    drawn = {index: bytes(font.getmask(letter)) for index, letter in enumerate(ALPHABET)}
    present = [index for index, mask in drawn.items() if any(mask) and mask != missing]
    if font.getname()[0] in _SYMBOL_FAMILIES or present[: len(_CAPITALS)] != _CAPITALS:
        return {}
    return {index: _draw_glyph(font, ALPHABET[index]) for index in present}


def _draw_glyph(font: ImageFont.FreeTypeFont, character: str) -> np.typing.NDArray[np.uint8]:
    """Draw one character, (48, 48), its longest side 38 pixels."""
    page = Image.new("L", (4 * _FONT_SIZE, 4 * _FONT_SIZE))
    ImageDraw.Draw(page).text((_FONT_SIZE, _FONT_SIZE), character, fill=255, font=font)
    ink = page.crop(page.getbbox())
    scale = _LONGEST_SIDE / max(ink.size)
    width, height = (max(2, round(side * scale)) for side in ink.size)
    glyph = Image.new("L", (_GLYPH_SIZE, _GLYPH_SIZE))
    place = ((_GLYPH_SIZE - width) // 2, (_GLYPH_SIZE - height) // 2)
    glyph.paste(ink.resize((width, height), Image.Resampling.BILINEAR), place)
    return np.asarray(glyph)


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _square(points: Tensor) -> Tensor:
    """Spread coordinates (n,) over a square: (n, n, 2), x before y as `grid_sample` wants them."""
    y, x = torch.meshgrid(points, points, indexing="ij")
    return torch.stack([x, y], -1)


def _warp(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate, slant, shrink, tilt in space and bend."""
    count, size = len(images), images.shape[-1]
    plane = _square(torch.linspace(-1, 1, size)).reshape(1, -1, 2)
    points = plane @ _slanted_rotations(count, generator)
    tilt = _uniform(-0.25, 0.25, (count, 1, 2), generator)
    points = points / (1 + (plane * tilt).sum(-1, keepdim=True))
    points = points.reshape(count, size, size, 2) + _bends(count, size, generator)
    return F.grid_sample(images, points, align_corners=True)


def _slanted_rotations(count: int, generator: torch.Generator) -> Tensor:
    """Matrices (count, 2, 2) for row vectors: up to 17 degrees of rotation, slant, 0 to 26 % smaller."""
    angle = _uniform(-0.3, 0.3, (count,), generator)
    slant = _uniform(-0.35, 0.35, (count,), generator)
    shrink = _uniform(1.0, 1.35, (count, 1, 2), generator)
    x_row = torch.stack([angle.cos(), angle.sin()], -1)
    y_row = torch.stack([slant - angle.sin(), angle.cos()], -1)
    return torch.stack([x_row, y_row], 1) * shrink


def _bends(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Smooth random displacements (count, size, size, 2), from none to strong."""
    strength = _uniform(0, 0.11, (count, 1, 1, 1), generator)
    coarse = torch.randn((count, 2, 5, 5), generator=generator) * strength
    return F.interpolate(coarse, size=(size, size), mode="bicubic").permute(0, 2, 3, 1)


def _change_stroke(images: Tensor, generator: torch.Generator) -> Tensor:
    """Keep, thicken, thin or double the stroke of each image; ends with ink fully on or off."""
    thick = F.max_pool2d(images, 3, stride=1, padding=1)
    thin = -F.max_pool2d(-images, 3, stride=1, padding=1)
    # Thinning a hairline would leave nothing to learn from.
    thin = torch.where(thin.amax((2, 3), keepdim=True) > 0.6, thin, images)
    doubled = F.max_pool2d(images, 5, stride=1, padding=2)
    variants = torch.stack([images, thick, thin, doubled])
    variant = torch.randint(len(variants), (len(images),), generator=generator)
    return (variants[variant, torch.arange(len(images))] > 0.4).float()


def _crop_to_ink(images: Tensor, generator: torch.Generator) -> Tensor:
    """Cut each image to its ink plus a thin random margin and scale it to 32x32, narrow glyphs kept narrow."""
    count, last = len(images), images.shape[-1] - 1
    (left, right), (top, bottom) = _ink_span(images.amax(2)), _ink_span(images.amax(3))
    height = torch.maximum(bottom - top, right - left) + 1
    height = height * _uniform(0.98, 1.15, (count,), generator)
    width = torch.maximum(right - left + 1, height * _uniform(0.75, 1.15, (count,), generator))
    centre = torch.stack([left + right, top + bottom], -1) / last - 1
    reach = torch.stack([width, height], -1) / last
    unit = _square((torch.arange(IMAGE_SIZE) + 0.5) / IMAGE_SIZE * 2 - 1)
    points = centre[:, None, None] + unit * reach[:, None, None]
    return (F.grid_sample(images, points, align_corners=True) > 0.45).float()


def _ink_span(profile: Tensor) -> tuple[Tensor, Tensor]:
    """First and last inked position of (count, 1, size) on/off profiles, each (count,); blank ones span all."""
    inked = profile[:, 0] > 0
    first = inked.int().argmax(1)
    last = inked.shape[1] - 1 - inked.flip(1).int().argmax(1)
    return first, last


def _pool_and_enlarge(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pool each image to 8, 9, 10 or 12 pixels a side and enlarge it again, like a very small sensor's picture."""
    chosen = torch.tensor(_POOLED_SIZES)[torch.randint(len(_POOLED_SIZES), (len(images),), generator=generator)]
    enlarged = torch.empty_like(images)
    for size in sorted(set(_POOLED_SIZES)):
        pooled = F.adaptive_avg_pool2d(images[chosen == size], size)
        enlarged[chosen == size] = F.interpolate(pooled, size=images.shape[2:], mode="bilinear")
    return enlarged


def _change_contrast(images: Tensor, generator: torch.Generator) -> Tensor:
    """Bring the brightest pixel near 1, add up to 6 % of noise and clip to 0..1."""
    shape = (len(images), 1, 1, 1)
    images = images / images.amax((2, 3), keepdim=True).clamp_min(0.3) * _uniform(0.8, 1.1, shape, generator)
    noise = torch.randn(images.shape, generator=generator) * _uniform(0, 0.06, shape, generator)
    return (images + noise).clamp(0, 1)
