"""Answers at every exit: programs agree with each other, with the stand-alone graphs and with the adapter in use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import edgefl
from edgefl.bundle import Bundle
from edgefl.errors import ExitsError, SamplesError
from edgefl.runtime.model import Model
from edgefl.runtime.prediction import Prediction
from tests.golden_bundle import CLASSES, EXITS, GOLDEN, copy_golden, random_samples, trained_adapter, trained_model


def test_anytime_answers_at_every_exit_what_inference_answers_there() -> None:
    model, (samples, _) = trained_model(), random_samples(3)

    predictions = list(model.infer(samples))

    assert [prediction.exit_index for prediction in predictions] == list(EXITS)
    for prediction in predictions:
        (alone,) = model.infer(samples, prediction.exit_index)
        assert alone.exit_index == prediction.exit_index
        assert prediction.logits.shape == (3, CLASSES)
        np.testing.assert_allclose(prediction.logits, alone.logits, rtol=1e-5, atol=1e-5)


def test_exits_differ_and_so_do_samples() -> None:
    first, second, third = (prediction.logits for prediction in trained_model().infer(random_samples(2)[0]))

    assert np.abs(first - second).max() > 1e-3
    assert np.abs(second - third).max() > 1e-3
    assert np.abs(third[0] - third[1]).max() > 1e-3


def test_a_sample_is_answered_the_same_alone_and_among_others() -> None:
    model, (samples, _) = trained_model(), random_samples(5)

    (together,) = model.infer(samples, 2)

    for index in range(5):
        (alone,) = model.infer(samples[index : index + 1], 2)
        np.testing.assert_allclose(together.logits[index], alone.logits[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("exit_index", EXITS)
def test_the_stand_alone_graph_answers_the_same_and_follows_the_adapter_file(tmp_path: Path, exit_index: int) -> None:
    bundle, (samples, _) = Bundle(copy_golden(tmp_path)), random_samples(2)
    adapter = replace(bundle.adapter(), version=1, round=1, tensors=trained_adapter())
    adapter.save(bundle.path("adapter.safetensors"), bundle.manifest.adapter.header_bytes)

    options = ort.SessionOptions()
    options.use_per_session_threads = False  # this process has the one pool of all sessions already
    session = ort.InferenceSession(bundle.folder / bundle.manifest.stand_alone[str(exit_index)], options)
    (logits,) = session.run(["logits"], {"samples": samples})

    (expected,) = Model(bundle, bundle.adapter()).infer(samples, exit_index)
    np.testing.assert_allclose(logits, expected.logits, rtol=1e-5, atol=1e-5)


def test_a_model_answers_with_another_adapter_of_its_bundle(tmp_path: Path) -> None:
    bundle, (samples, _) = Bundle(GOLDEN), random_samples(1)
    path = tmp_path / "other.safetensors"
    replace(bundle.adapter(), tensors=trained_adapter()).save(path, bundle.manifest.adapter.header_bytes)

    (found,) = edgefl.load(GOLDEN, path).infer(samples, 1)

    (expected,) = trained_model().infer(samples, 1)
    assert np.array_equal(found.logits, expected.logits)


def test_an_adapter_changed_in_place_is_seen_by_the_next_call() -> None:
    model, (samples, _) = trained_model(), random_samples(1)
    (before,) = model.infer(samples, 0)

    model.adapter["head.mlp.fc2.bias"][1] += np.float32(2)

    # The last layer's bias is added to the logits as it is.
    (after,) = model.infer(samples, 0)
    np.testing.assert_allclose(after.logits - before.logits, [[0, 2, 0, 0, 0]], atol=1e-5)


def test_another_adapter_takes_the_place_of_the_first() -> None:
    model, (samples, _) = trained_model(), random_samples(1)
    (first,) = model.infer(samples, 1)
    exported = edgefl.load(GOLDEN)

    model.use_adapter(exported.adapter)

    (found,), (expected,) = model.infer(samples, 1), exported.infer(samples, 1)
    assert np.array_equal(found.logits, expected.logits)
    assert not np.array_equal(found.logits, first.logits)


def test_a_prediction_names_the_most_probable_class_and_how_probable_it_is() -> None:
    odds = np.array([[1.0, 2.0, 1.0], [6.0, 1.0, 1.0]])
    prediction = Prediction(exit_index=0, logits=np.log(odds).astype(np.float32))

    # Softmax of logarithms is each number's share of the sum.
    np.testing.assert_allclose(prediction.probabilities, [[0.25, 0.5, 0.25], [0.75, 0.125, 0.125]], rtol=1e-6)
    assert prediction.labels.tolist() == [1, 0]
    np.testing.assert_allclose(prediction.confidence, [0.5, 0.75], rtol=1e-6)


def test_large_logits_have_finite_probabilities() -> None:
    prediction = Prediction(exit_index=0, logits=np.array([[1000.0, 0.0]], np.float32))

    assert prediction.probabilities.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("exit_index", [3, -1])
def test_an_exit_the_bundle_does_not_have_is_refused(exit_index: int) -> None:
    with pytest.raises(ExitsError, match=f"exit {exit_index} does not exist: bundle bundle has the exits 0-2"):
        list(trained_model().infer(random_samples(1)[0], exit_index))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((16, 16), np.uint8),
        np.zeros((1, 16, 16, 3), np.float64),
        np.zeros((1, 16, 16), np.float32),
        np.zeros((1, 1, 16, 16), np.int64),
    ],
)
def test_what_is_neither_images_nor_samples_is_refused(images: object) -> None:
    with pytest.raises(SamplesError, match=r"expected uint8 \(H, W, 3\) or \(B, H, W, 3\), or float32 samples"):
        list(trained_model().infer(images))  # type: ignore[arg-type]  # an array, of whatever dtype


def test_a_caller_may_stop_a_program_between_its_calls() -> None:
    calls: list[None] = []

    def stop_at_the_third() -> None:
        calls.append(None)
        if len(calls) == 3:
            raise InterruptedError

    bundle = Bundle(GOLDEN)
    model = Model(bundle, bundle.adapter(), between_calls=stop_at_the_third)

    with pytest.raises(InterruptedError):
        list(model.infer(random_samples(1)[0]))
    assert len(calls) == 3


def test_any_program_can_be_run_by_its_name() -> None:
    model, (samples, _) = trained_model(), random_samples(2)
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 24, 3), np.uint8)

    answers = model.run("anytime", {"samples": samples})
    assert {int(key.removeprefix("logits_")): array.tolist() for key, array in answers.items()} == {
        prediction.exit_index: prediction.logits.tolist() for prediction in model.infer(samples)
    }

    prepared = model.run("preprocess", {"images": images})["samples"]
    (expected,) = model.infer(prepared, 1)
    assert np.array_equal(model.run("infer/1", {"images": images})["logits"], expected.logits)
