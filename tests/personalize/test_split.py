"""The validation split: a share of each class, the same each time, and no sample in both parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.errors import SamplesError
from edgefl.personalize.split import Chosen, split


class Numbered:
    """Samples that are their own numbers."""

    def __init__(self, labels: Sequence[int]) -> None:
        self.labels = np.array(labels, np.int64)

    def read(self, indices: Sequence[int]) -> list[np.ndarray[Any, Any]]:
        """Return the numbers."""
        return [np.array(index) for index in indices]


def numbers(part: Chosen) -> list[int]:
    return [int(number) for number in part.read(range(len(part.labels)))]


@given(st.lists(st.integers(0, 4), min_size=10, max_size=80), st.floats(0.01, 0.5), st.integers(0, 2**32 - 1))
def test_every_sample_is_in_one_part_and_each_class_gives_its_share(labels: list[int], share: float, seed: int) -> None:
    parts = split(Numbered(labels), share, seed)

    training, validation = numbers(parts.training), numbers(parts.validation)
    assert sorted(training + validation) == list(range(len(labels)))
    assert len(validation) == max(1, round(share * len(labels)))
    assert parts.training.labels.tolist() == [labels[number] for number in training]
    assert parts.validation.labels.tolist() == [labels[number] for number in validation]
    for label in set(labels):
        expected = labels.count(label) * len(validation) / len(labels)
        assert abs([labels[number] for number in validation].count(label) - expected) < 1


def test_the_same_seed_gives_the_same_split_and_another_one_another() -> None:
    samples = Numbered([number % 3 for number in range(60)])

    first, again, other = (numbers(split(samples, 0.2, seed).validation) for seed in (7, 7, 8))

    assert first == again
    assert first != other


def test_samples_of_one_class_are_not_the_first_ones_of_it() -> None:
    drawn = {tuple(numbers(split(Numbered([0] * 20), 0.2, seed).validation)) for seed in range(20)}

    assert len(drawn) > 15


def test_nine_samples_are_too_few_and_ten_are_enough() -> None:
    with pytest.raises(SamplesError, match=r"there are 9 samples, expected at least 10: .*name a folder with more"):
        split(Numbered([0] * 9), 0.2, 0)

    assert len(numbers(split(Numbered([0] * 10), 0.01, 0).validation)) == 1
