"""The cache of features: gives back what it was given, keeps to its budget, leaves nothing behind."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.runtime.feature_cache import FeatureCache
from edgefl.runtime.local_training import LocalPlan, train_locally
from edgefl.runtime.model import Model
from edgefl.runtime.weights import FloatArray
from tests.golden_bundle import random_samples, trained_adapter, trained_model

PLAN = LocalPlan(
    exit_index=2, draw="own", seed=1, optimizer="sgd", learning_rate=0.05, momentum=0.9, weight_decay=0.0,
    clip=0.0, epochs=3, batch_size=4,
)  # fmt: skip


class Counted:
    """Ten samples, and how often each was read."""

    def __init__(self, count: int = 10) -> None:
        self._samples, self.labels = random_samples(count)
        self.read_times = [0] * count

    def read(self, indices: Sequence[int]) -> list[np.ndarray[Any, Any]]:
        """Count and return."""
        for index in indices:
            self.read_times[index] += 1
        return [self._samples[index] for index in indices]


def trained(samples: Counted, cache: FeatureCache | None, plan: LocalPlan = PLAN) -> dict[str, FloatArray]:
    model: Model = trained_model()
    model.use_adapter(trained_adapter())
    train_locally(model, samples, plan, cache=cache)
    return dict(model.adapter)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30, unique=True), st.integers(0, 12))
def test_a_row_is_given_back_as_it_was_put_as_long_as_there_was_room(
    tmp_path_factory: pytest.TempPathFactory, indices: list[int], rows: int
) -> None:
    values = {index: np.full((2, 3), index, np.float32) for index in indices}
    with FeatureCache(tmp_path_factory.getbasetemp(), budget_bytes=rows * 24) as cache:  # of 2 x 3 floats
        for index, value in values.items():
            cache.put(index, {"digest": value})

        kept = [index for index in indices if cache.has(["digest"], index)]
        assert kept == indices[:rows]
        assert cache.used_bytes == 24 * len(kept)
        if kept:
            np.testing.assert_array_equal(cache.get("digest", kept[::-1]), [values[index] for index in kept[::-1]])


def test_features_of_other_digests_are_apart_and_share_the_budget(tmp_path: Path) -> None:
    with FeatureCache(tmp_path, budget_bytes=12) as cache:
        cache.put(0, {"one": np.array([1, 2], np.float32), "other": np.array([3], np.float32)})
        cache.put(1, {"other": np.array([4], np.float32)})

        assert cache.get("one", [0]).tolist() == [[1, 2]]
        assert cache.get("other", [0]).tolist() == [[3]]
        assert cache.has(["one", "other"], 0)
        assert not cache.has(["other"], 1)


def test_no_file_has_a_name_that_a_crash_could_leave_behind(tmp_path: Path) -> None:
    with FeatureCache(tmp_path, budget_bytes=100) as cache:
        cache.put(0, {"digest": np.zeros(3, np.float32)})

        assert cache.has(["digest"], 0)
        assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_training_goes_on_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with FeatureCache(tmp_path / "missing", budget_bytes=10**6) as cache, caplog.at_level(logging.WARNING):
        found = trained(Counted(), cache)

    assert caplog.text.count("no more features are kept") == 1
    expected = trained(Counted(), None)
    assert all(np.allclose(found[name], expected[name], atol=1e-6) for name in expected)


def test_a_disk_that_fills_gets_back_what_was_kept_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Filling(FeatureCache):
        """Has room for five samples, and then no disk."""

        def put(self, index: int, rows: Mapping[str, FloatArray]) -> None:
            """Keep, until the disk is gone."""
            if self.used_bytes >= 5 * 5 * 24 * 4:
                self._tables["another"] = self._tables.pop(next(iter(rows)))
                self._folder = tmp_path / "missing"
            super().put(index, rows)

    with Filling(tmp_path, budget_bytes=10**6) as cache, caplog.at_level(logging.WARNING):
        found = trained(Counted(), cache)
        assert (cache.used_bytes, cache._tables) == (0, {})

    assert caplog.text.count("no more features are kept") == 1
    for name, array in trained(Counted(), None).items():
        np.testing.assert_allclose(found[name], array, atol=2e-6)


def test_samples_are_read_once_and_training_comes_to_the_same(tmp_path: Path) -> None:
    samples, plain = Counted(), Counted()

    with FeatureCache(tmp_path, budget_bytes=10**6) as cache:
        found, expected = trained(samples, cache), trained(plain, None)

    assert samples.read_times == [1] * 10
    assert plain.read_times == [3] * 10  # epochs
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=2e-6)


def test_with_room_for_some_samples_the_others_are_read_each_time(tmp_path: Path) -> None:
    # cls and patches of a sample are 5 tokens of width 24, of 4 bytes each.
    samples = Counted()

    with FeatureCache(tmp_path, budget_bytes=3 * 5 * 24 * 4) as cache:
        found = trained(samples, cache)

    assert sorted(samples.read_times) == [1] * 3 + [3] * 7
    for name, array in trained(Counted(), None).items():
        np.testing.assert_allclose(found[name], array, atol=2e-6)


def test_exits_share_what_is_the_same_and_later_calls_find_it(tmp_path: Path) -> None:
    samples = Counted()

    with FeatureCache(tmp_path, budget_bytes=10**6) as cache:
        trained(samples, cache, dataclasses.replace(PLAN, draw="uniform", epochs=6))
        trained(samples, cache)

    assert samples.read_times == [1] * 10
