"""The preprocessing graph against Pillow, which decodes and resizes for the models edgefl exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from PIL import Image

from edgefl.runtime.sessions import open_session
from edgefl_export.graphs.preprocess import Preprocessing, preprocess_graph

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def settings(
    channels: Literal[1, 3] = 3, interpolation: Literal["bilinear", "bicubic"] = "bicubic", resize_to: int = 36
) -> Preprocessing:
    mean, std = (MEAN, STD) if channels == 3 else ((0.3,), (0.35,))
    return Preprocessing(
        image_size=32, resize_to=resize_to, channels=channels, interpolation=interpolation, mean=mean, std=std
    )


def samples_of_the_graph(images: np.ndarray[Any, Any], chosen: Preprocessing, folder: Path) -> np.ndarray[Any, Any]:
    onnx.save(preprocess_graph(chosen), folder / "preprocess.onnx")
    samples: np.ndarray[Any, Any] = open_session(folder / "preprocess.onnx").run(None, {"images": images})[0]
    return samples


def sample_of_pillow(pixels: np.ndarray[Any, Any], chosen: Preprocessing) -> np.ndarray[Any, Any]:
    """Resize the shorter side, cut out the middle, normalise; (C, size, size)."""
    image = Image.fromarray(pixels)
    if chosen.channels == 1:
        image = image.convert("L")
    width, height = image.size
    factor = chosen.resize_to / min(width, height)
    kernel = Image.Resampling.BILINEAR if chosen.interpolation == "bilinear" else Image.Resampling.BICUBIC
    image = image.resize((int(width * factor), int(height * factor)), kernel)
    left, top = (round((side - chosen.image_size) / 2) for side in image.size)
    image = image.crop((left, top, left + chosen.image_size, top + chosen.image_size))
    values = np.asarray(image, np.float32).reshape(chosen.image_size, chosen.image_size, chosen.channels) / 255
    normalised: np.ndarray[Any, Any] = (values - np.array(chosen.mean, np.float32)) / np.array(chosen.std, np.float32)
    return normalised.transpose(2, 0, 1)


def some_image(height: int, width: int) -> np.ndarray[Any, Any]:
    """Return a smooth picture with edges and some noise."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / 7 + shift) + np.cos(columns / (5 + shift)) for shift in range(3)]
    picture = 128 + 50 * np.stack(waves, axis=-1) + np.random.default_rng(0).normal(0, 10, (height, width, 3))
    picture[height // 3 : height // 2] = 255
    return picture.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(36, 36), (100, 64), (64, 101), (300, 200), (20, 27), (36, 41)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_becomes_the_sample_that_pillow_makes(
    size: tuple[int, int], interpolation: Literal["bilinear", "bicubic"], channels: Literal[1, 3], tmp_path: Path
) -> None:
    chosen, image = settings(channels, interpolation), some_image(*size)
    (found,) = samples_of_the_graph(image[None], chosen, tmp_path)
    difference = np.abs(found - sample_of_pillow(image, chosen)) * np.array(chosen.std, np.float32)[:, None, None] * 255
    # Pillow rounds to whole grey levels after each of its two passes, the graph never.
    assert difference.max() < 2.5
    assert difference.mean() < 0.5


def test_a_batch_of_images_is_a_batch_of_samples(tmp_path: Path) -> None:
    images = np.stack([some_image(50, 40), 255 - some_image(50, 40)])
    together = samples_of_the_graph(images, settings(), tmp_path)
    assert together.shape == (2, 3, 32, 32)
    for image, sample in zip(images, together, strict=True):
        assert np.array_equal(samples_of_the_graph(image[None], settings(), tmp_path)[0], sample)


def test_a_cubic_kernel_does_not_leave_the_range_of_pixels(tmp_path: Path) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 30:34] = 255
    (found,) = samples_of_the_graph(image[None], settings(resize_to=100), tmp_path)
    pixels = found * np.array(STD, np.float32)[:, None, None] + np.array(MEAN, np.float32)[:, None, None]
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6


def test_without_a_resize_pixels_pass_unchanged(tmp_path: Path) -> None:
    image = some_image(32, 32)
    (found,) = samples_of_the_graph(image[None], settings(resize_to=32), tmp_path)
    expected = (image / np.float32(255) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-5)
