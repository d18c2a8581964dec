"""What an adapter is judged by: right answers, then the loss, on samples answered a few at a time."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from edgefl.personalize.score import Score, evaluate, evaluate_exit
from edgefl.runtime.feature_cache import FeatureCache
from edgefl.runtime.step_inputs import CachedInputs, DecodedInputs
from edgefl.samples.arrays import ArraySamples
from tests.golden_bundle import CLASSES, EXITS, cross_entropies, random_samples, trained_adapter, trained_model


def samples_of(count: int) -> ArraySamples:
    return ArraySamples(*random_samples(count), CLASSES)


def test_a_score_is_that_of_all_samples_however_many_are_answered_at_once() -> None:
    model, (samples, labels) = trained_model(), random_samples(19)

    found = evaluate(model, samples_of(19))

    assert list(found) == list(EXITS)
    for e, score in found.items():
        (answer,) = model.infer(samples, e)
        assert score.accuracy == (answer.labels == labels).sum() / 19
        assert score.loss == pytest.approx(cross_entropies(answer.logits, labels).mean(), rel=1e-5)


@pytest.mark.parametrize("exit_index", EXITS)
def test_one_exit_has_the_same_score_from_samples_and_from_features_kept_of_some(
    tmp_path: Path, exit_index: int
) -> None:
    model, samples = trained_model(), samples_of(19)
    expected = evaluate(model, samples)[exit_index]
    row_bytes = 4 * 5 * 24  # cls and patches of a sample are 5 tokens of width 24

    found = [evaluate_exit(model, samples, DecodedInputs(model, samples), exit_index)]
    for rows in (19, 11):
        with FeatureCache(tmp_path, rows * row_bytes) as cache:
            inputs = CachedInputs(model, samples, cache, "infer")
            found += [evaluate_exit(model, samples, inputs, exit_index) for _ in range(2)]
            assert cache.used_bytes == rows * row_bytes

    for score in found:
        assert score.accuracy == expected.accuracy
        assert score.loss == pytest.approx(expected.loss, rel=1e-5)


def test_large_logits_have_a_finite_loss_and_infinite_ones_have_not() -> None:
    model, (_, labels) = trained_model(), random_samples(10)
    tensors = trained_adapter()
    tensors["head.mlp.fc2.bias"][:] = [1000, 0, 0, 0, 0]
    model.use_adapter(tensors)

    found = evaluate(model, samples_of(10))[2]

    # A wrong answer costs about 1000, a right one nothing.
    assert found.loss == pytest.approx(1000 * (labels != 0).mean(), rel=0.01)
    tensors["head.mlp.fc2.weight"][:] = np.finfo(np.float32).max
    assert not math.isfinite(evaluate(model, samples_of(10))[2].loss)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ((0.5, 2.0), (0.4, 1.0)),
        ((0.5, 1.0), (0.5, 2.0)),
        ((0.1, 9.0), (0.9, math.nan)),
        ((0.1, 9.0), (0.9, math.inf)),
    ],
    ids=["more right", "as many right with a lower loss", "the other is no number", "the other is infinite"],
)
def test_one_score_is_better_than_another(better: tuple[float, float], worse: tuple[float, float]) -> None:
    first, second = (Score(accuracy=accuracy, loss=loss) for accuracy, loss in (better, worse))

    assert first.is_better_than(second)
    assert not second.is_better_than(first)


@pytest.mark.parametrize("loss", [1.0, math.nan, math.inf])
def test_no_score_is_better_than_itself(loss: float) -> None:
    score = Score(accuracy=0.5, loss=loss)

    assert not score.is_better_than(score)
