"""Samples from a function of the user's own, and arrays that fit or do not fit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefl.errors import SamplesError
from edgefl.samples import open_samples
from edgefl.samples.arrays import ArraySamples

MODULE = "my_device_samples"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the current directory; what a test imports from it is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    sys.modules.pop(MODULE, None)


def write_module(folder: Path, body: str) -> str:
    (folder / f"{MODULE}.py").write_text(f"import numpy as np\ndef load():\n    {body}\n", encoding="utf-8")
    return f"{MODULE}:load"


def test_a_function_in_the_current_directory_is_found_and_called(here: Path) -> None:
    name = write_module(here, "return np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3), [1, 0]")

    samples = open_samples(name, classes=2)

    assert samples.labels.tolist() == [1, 0]
    assert [image[0, 0].tolist() for image in samples.read([1, 0, 1])] == [[12, 13, 14], [0, 1, 2], [12, 13, 14]]


def test_a_folder_whose_name_has_a_colon_is_a_folder(here: Path) -> None:
    (here / "a:b").mkdir()

    with pytest.raises(SamplesError, match="a:b has no images"):
        open_samples("a:b", classes=2)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (f"{MODULE}:nothing", "has no attribute 'nothing'"),
        ("no_such_module_here:load", "No module named 'no_such_module_here'"),
        (":load", "Empty module name"),
        (f"{MODULE}:", "has no attribute ''"),
    ],
)
def test_a_function_that_is_not_there_is_refused_with_the_reason(here: Path, name: str, fault: str) -> None:
    write_module(here, "return None")

    with pytest.raises(SamplesError, match=rf"--samples {name}: .*{fault}.*; name a folder, or module:function"):
        open_samples(name, classes=2)


@pytest.mark.parametrize("body", ["return None", "return np.zeros((3, 2, 2, 3), np.uint8)", "return 1, 2, 3"])
def test_a_function_that_does_not_return_a_pair_is_refused(here: Path, body: str) -> None:
    with pytest.raises(SamplesError, match=r"the function must return \(samples, labels\)"):
        open_samples(write_module(here, body), classes=2)


def test_what_the_function_returns_is_checked(here: Path) -> None:
    name = write_module(here, "return np.zeros((2, 4, 4, 3)), [0, 1]")

    with pytest.raises(SamplesError, match=r"samples are float64 of shape \(2, 4, 4, 3\); expected uint8"):
        open_samples(name, classes=2)


@pytest.mark.parametrize(
    "samples",
    [np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 1, 16, 16), np.float32)],
    ids=["uint8 images", "float32 samples"],
)
def test_arrays_are_handed_out_as_they_are(samples: np.ndarray[Any, Any]) -> None:
    samples[1] = 7

    held = ArraySamples(samples, np.array([0, 4], np.uint8), classes=5)

    assert held.labels.dtype == np.int64
    assert held.labels.tolist() == [0, 4]
    first, second = held.read([1, 0])
    assert first.dtype == samples.dtype
    assert (first.min(), first.max(), second.max()) == (7, 7, 0)


@pytest.mark.parametrize(
    ("samples", "labels", "fault"),
    [
        (np.zeros((2, 4, 4), np.uint8), [0, 1], r"samples are uint8 of shape \(2, 4, 4\)"),
        (np.zeros((2, 1, 4, 4), np.float16), [0, 1], "samples are float16"),
        ([["a"]], [0], "samples are <U1"),
        (np.zeros((0, 4, 4, 3), np.uint8), np.zeros(0, int), "there are no samples; give at least one"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0], r"labels are int64 of shape \(1,\), expected 2 integers"),
        (np.zeros((2, 4, 4, 3), np.uint8), [[0], [1]], "expected 2 integers"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0.0, 1.0], "labels are float64"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0, 3], "labels run from 0 to 3, the model has classes 0 to 2"),
        (np.zeros((2, 4, 4, 3), np.uint8), [-1, 2], "labels run from -1 to 2"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(samples: Any, labels: Any, fault: str) -> None:
    with pytest.raises(SamplesError, match=fault):
        ArraySamples(samples, labels, classes=3)
