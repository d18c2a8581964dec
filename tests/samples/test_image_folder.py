"""Image folders: which label an image has, what a pixel becomes, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgefl.errors import SamplesError
from edgefl.samples import open_samples
from edgefl.samples.folder import ImageFolder, read_image

RED = (200, 20, 10)


def picture(path: Path, colour: int | tuple[int, ...] = RED, mode: str = "RGB", size: tuple[int, int] = (3, 2)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def test_the_name_of_a_subfolder_is_its_class(tmp_path: Path) -> None:
    for name in ("2/b.png", "2/a.png", "0/z.png", "10/c.png"):
        picture(tmp_path / name, colour=(len(name), ord(name[-5]), 0))

    samples = ImageFolder(tmp_path, classes=11)

    # Ordered by the subfolders' names as text, then by the images': 0, 10, 2.
    assert samples.labels.tolist() == [0, 10, 2, 2]
    assert samples.labels.dtype == np.int64
    assert [chr(image[0, 0, 1]) for image in samples.read([0, 1, 2, 3])] == ["z", "c", "a", "b"]
    assert [chr(image[0, 0, 1]) for image in samples.read([3, 0])] == ["b", "z"]


def test_names_are_numbered_in_their_order_when_every_class_has_a_subfolder(tmp_path: Path) -> None:
    for name in ("dog", "cat", "eel"):
        picture(tmp_path / name / "a.png")

    assert ImageFolder(tmp_path, classes=3).labels.tolist() == [0, 1, 2]


def test_an_empty_subfolder_counts_as_a_class_and_has_no_samples(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    picture(tmp_path / "bee" / "a.png")

    assert ImageFolder(tmp_path, classes=2).labels.tolist() == [1]


def test_what_is_no_image_and_what_is_hidden_is_left_alone(tmp_path: Path) -> None:
    picture(tmp_path / "0" / "a.PNG")
    picture(tmp_path / ".cache" / "b.png")
    picture(tmp_path / "lost.png")
    (tmp_path / "0" / "notes.txt").write_text("not a picture")

    assert ImageFolder(tmp_path, classes=1).labels.tolist() == [0]


def test_images_are_decoded_when_they_are_read_and_not_before(tmp_path: Path) -> None:
    later = picture(tmp_path / "0" / "a.png")
    (tmp_path / "0" / "b.png").write_bytes(b"no picture")
    samples = ImageFolder(tmp_path, classes=1)

    picture(later, colour=(1, 2, 3))

    (image,) = samples.read([0])
    assert image.tolist() == [[[1, 2, 3]] * 3] * 2
    with pytest.raises(SamplesError, match=r"b\.png cannot be read as an image: it is none of PNG, .*; replace it"):
        samples.read([0, 1])


@pytest.mark.parametrize(
    ("mode", "colour", "pixel"),
    [
        ("RGB", RED, RED),
        ("L", 90, (90, 90, 90)),
        ("LA", (90, 0), (90, 90, 90)),
        ("RGBA", (*RED, 128), RED),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_every_image_becomes_rgb_height_first(
    tmp_path: Path, mode: str, colour: int | tuple[int, ...], pixel: tuple[int, ...]
) -> None:
    image = read_image(picture(tmp_path / "a.png", colour, mode))

    assert image.dtype == np.uint8
    assert image.shape == (2, 3, 3)
    assert {tuple(each) for row in image.tolist() for each in row} == {pixel}


@pytest.mark.parametrize("transparency", [{}, {"transparency": bytes([0, 128])}])
def test_a_palette_is_looked_up_and_its_transparency_dropped(tmp_path: Path, transparency: dict[str, Any]) -> None:
    palette = Image.new("P", (1, 1), 1)
    palette.putpalette([0, 0, 0, *RED])
    palette.save(tmp_path / "a.png", **transparency)

    assert read_image(tmp_path / "a.png").tolist() == [[list(RED)]]


def test_an_image_of_16_bits_is_refused_because_it_would_come_out_white(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 40_000, np.uint16)).save(tmp_path / "a.png")

    with pytest.raises(SamplesError, match="more than 8 bits for a channel"):
        read_image(tmp_path / "a.png")


def damaged(path: Path) -> None:
    """Say that the pixels end half way, so that what comes after them is no chunk of a PNG file."""
    content = bytearray(picture(path, size=(50, 50)).read_bytes())
    length = content.index(b"IDAT") - 4
    content[length : length + 4] = (10).to_bytes(4, "big")
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("<html>"),
        lambda path: path.write_bytes(picture(path, size=(50, 50)).read_bytes()[:-40]),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("nowhere"),
        damaged,
    ],
    ids=["empty", "text", "cut short", "a folder", "a dangling link", "a damaged chunk"],
)
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    spoil(tmp_path / "a.png")

    with pytest.raises(SamplesError, match=r"a\.png cannot be read as an image"):
        read_image(tmp_path / "a.png")


def test_a_folder_that_is_not_there_is_refused_with_the_forms_there_are(tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match=r"none: No such file or directory; name a folder of images or module:funct"):
        open_samples(str(tmp_path / "none"), classes=2)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match=r"a\.png: Not a directory"):
        open_samples(str(picture(tmp_path / "a.png")), classes=2)


@pytest.mark.parametrize("names", [[], ["0", "1"], ["notes"]])
def test_a_folder_without_images_is_refused_with_an_example(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).mkdir()

    with pytest.raises(SamplesError, match=r"no images; expected one subfolder for each class, such as .*/0/a\.png"):
        ImageFolder(tmp_path, classes=max(1, len(names)))


@pytest.mark.parametrize("name", ["2", "99999999999999999999"])
def test_a_class_the_model_does_not_have_is_refused(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "0" / "a.png")
    picture(tmp_path / name / "a.png")

    with pytest.raises(SamplesError, match=rf"/{name}: the model has classes 0 to 1; remove the subfolder"):
        ImageFolder(tmp_path, classes=2)


@pytest.mark.parametrize("names", [["cat"], ["0", "cat", "dog"], ["-1"], ["①"]])
def test_names_that_are_not_every_class_are_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        picture(tmp_path / name / "a.png")

    with pytest.raises(SamplesError, match=rf"has {len(names)} subfolders with names, the model has 2 classes: name"):
        ImageFolder(tmp_path, classes=2)
