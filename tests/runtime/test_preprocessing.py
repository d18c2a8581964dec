"""Preprocessing as a graph: grey, size and normalisation worked out by hand, resampling against Pillow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgefl.errors import SamplesError
from edgefl.runtime.weights import FloatArray
from tests.golden_bundle import trained_model

SIZE, MEAN, STD = 16, 0.3, 0.35
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

Images = np.ndarray[Any, np.dtype[np.uint8]]


def random_image(height: int, width: int, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def by_pillow(image: Images) -> np.ndarray[Any, Any]:
    """Return the sample: grey, shorter side to 16 (longer rounded down), middle cut out, normalised."""
    height, width = image.shape[:2]
    shorter = min(height, width)
    resized = (width * SIZE // shorter, height * SIZE // shorter)
    grey = np.asarray(Image.fromarray(image @ LUMA).resize(resized, Image.Resampling.BILINEAR))
    top, left = (round((length - SIZE) / 2) for length in grey.shape)
    return (grey[top : top + SIZE, left : left + SIZE] / np.float32(255) - np.float32(MEAN)) / np.float32(STD)


def test_a_colour_becomes_its_grey_shifted_by_the_mean_and_divided_by_the_deviation() -> None:
    image = np.full((SIZE, SIZE, 3), (200, 100, 50), np.uint8)

    samples = trained_model().preprocess(image)

    # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2; 124.2 / 255 = 0.487059; (0.487059 - 0.3) / 0.35 = 0.534454
    assert samples.shape == (1, 1, SIZE, SIZE)
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, 0.534454, atol=2e-6)


def test_an_image_of_the_model_s_size_keeps_every_pixel() -> None:
    image = random_image(SIZE, SIZE)

    sample = trained_model().preprocess(image)[0, 0]

    np.testing.assert_allclose(sample, (image @ LUMA / 255 - MEAN) / STD, atol=1e-5)


@pytest.mark.parametrize(
    ("height", "width"), [(32, 32), (20, 16), (16, 21), (17, 40), (9, 12), (100, 37), (1, 3), (8, 8), (19, 16)]
)
def test_an_image_of_any_size_is_resized_antialiased_and_cut_as_pillow_does(height: int, width: int) -> None:
    image = random_image(height, width)

    sample = trained_model().preprocess(image)[0, 0]

    np.testing.assert_allclose(sample, by_pillow(image), atol=1e-5)


def test_a_batch_of_images_is_its_images() -> None:
    model = trained_model()
    images = np.stack([random_image(24, 18, seed) for seed in range(3)])

    together = model.preprocess(images)

    for image, sample in zip(images, together, strict=True):
        np.testing.assert_allclose(model.preprocess(image)[0], sample, atol=1e-6)


def test_images_of_different_sizes_are_prepared_one_by_one() -> None:
    model = trained_model()
    images = [random_image(24, 18), random_image(16, 16), random_image(24, 18, seed=1)]

    samples = model.prepare(images)

    assert samples.shape == (3, 1, SIZE, SIZE)
    for image, sample in zip(images, samples, strict=True):
        np.testing.assert_allclose(sample, model.preprocess(image)[0], atol=1e-6)


def test_samples_pass_as_they_are() -> None:
    samples = np.random.default_rng(0).standard_normal((2, 1, SIZE, SIZE), np.float32)

    assert np.array_equal(trained_model().preprocess(samples), samples)
    assert np.array_equal(trained_model().prepare(list(samples)), samples)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (0, 4, 4, 3), (4, 4, 4), (1, 4, 4, 1)])
def test_an_image_without_pixels_or_of_other_channels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SamplesError, match="'images' is uint8"):
        trained_model().preprocess(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("images", "fault"),
    [
        ([], "there are no images"),
        ([np.zeros((1, 8, 8), np.float32)], r"of shape \(1, 8, 8\), expected \(1, 16, 16\)"),
        ([np.zeros((1, size, size), np.float32) for size in (16, 8)], r"of shape \(1, 8, 8\)"),
    ],
)
def test_samples_that_do_not_fit_the_model_are_not_prepared(images: list[FloatArray], fault: str) -> None:
    with pytest.raises(SamplesError, match=fault):
        trained_model().prepare(images)
