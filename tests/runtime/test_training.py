"""Loss and gradient: against the logits, against finite differences, and whatever the size of the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgefl
from edgefl.bundle import Bundle
from edgefl.errors import ExitsError, SamplesError, UnknownProgramError
from edgefl.runtime.batch import pieces
from edgefl.runtime.gradients import Gradients
from edgefl.runtime.model import Model, load
from edgefl.runtime.weights import FloatArray
from tests.golden_bundle import (
    EXITS,
    GOLDEN,
    Fields,
    Labels,
    change_manifest,
    copy_golden,
    cross_entropies,
    random_samples,
    trained_model,
)

PARALLEL = "parallel_adapters."


def reached(name: str, shape: tuple[int, ...], exit_index: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Mark the elements an exit trains: position rows 0..e+1, parallel adapters 0..e, everything of the others."""
    rows = exit_index + 2 if name == "accumulator.positions" else exit_index + 1 if name.startswith(PARALLEL) else None
    mask = np.zeros(shape, bool)
    mask[:rows] = True
    return mask


def exact_loss(model: Model, samples: FloatArray, labels: Labels, exit_index: int) -> float:
    (prediction,) = model.infer(samples, exit_index)
    return float(cross_entropies(prediction.logits, labels).mean())


@pytest.mark.parametrize("exit_index", EXITS)
@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
def test_a_batch_of_any_size_is_cut_into_pieces_of_at_most_the_program_s_four(count: int, exit_index: int) -> None:
    model, (samples, labels) = trained_model(), random_samples(count)
    whole = Gradients(model.adapter)

    loss = model.accumulate(whole, samples, labels, exit_index)

    one_by_one = Gradients(model.adapter)
    share = np.array([1 / count], np.float32)
    for i in range(count):
        model.accumulate(one_by_one, samples[i : i + 1], labels[i : i + 1], exit_index, share)
    assert loss == pytest.approx(exact_loss(model, samples, labels, exit_index), rel=1e-5)
    for name, gradient in whole.arrays.items():
        np.testing.assert_allclose(gradient, one_by_one.arrays[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_every_memory_knob_gives_the_same_gradient() -> None:
    model, (samples, labels) = trained_model(), random_samples(11)
    expected = Gradients(model.adapter)
    model.accumulate(expected, samples, labels, 2)

    for memory in ("lean", "balanced", "fast"):
        found, knobbed = Gradients(model.adapter), load(GOLDEN, memory=memory)
        knobbed.use_adapter(model.adapter)
        knobbed.accumulate(found, samples, labels, 2)
        for name, gradient in found.arrays.items():
            np.testing.assert_allclose(gradient, expected.arrays[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_knob_the_bundle_does_not_have_is_refused_when_it_is_opened() -> None:
    with pytest.raises(UnknownProgramError, match=r"no memory knob 'frugal' in .*; it has lean, balanced, fast"):
        load(GOLDEN, memory="frugal")


def test_a_knob_takes_as_few_pieces_as_it_can_and_all_of_one_size() -> None:
    sizes = {
        memory: [piece.stop - piece.start for piece in pieces(11, _opened_batch(memory), even=True)]
        for memory in ("lean", "balanced", "fast")
    }
    # At most 5 samples at once, or at most 10.
    assert sizes == {"lean": [4, 4, 3], "balanced": [4, 4, 3], "fast": [6, 5]}
    assert [piece.stop for piece in pieces(11, 4, even=False)] == [4, 8, 11]


def _opened_batch(memory: str) -> int:
    batch = Bundle(GOLDEN).program(f"train/1/{memory}").batch
    assert batch is not None
    return batch


@pytest.mark.parametrize("exit_index", EXITS)
def test_a_program_that_takes_an_exact_number_gets_the_last_piece_padded(tmp_path: Path, exit_index: int) -> None:
    bundle = copy_golden(tmp_path)

    def fix(fields: Fields) -> None:
        for entry in fields["programs"][f"train/{exit_index}"]["inputs"].values():
            entry["shape"][0] = 4

    change_manifest(bundle, fix)
    fixed, (samples, labels) = load(bundle), random_samples(6)
    fixed.use_adapter(trained_model().adapter)
    loss, gradients = fixed.train_step(samples, labels, exit_index)
    expected_loss, expected = trained_model().train_step(samples, labels, exit_index)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("exit_index", EXITS)
def test_a_sample_of_weight_0_is_no_sample(exit_index: int) -> None:
    model, (samples, labels) = trained_model(), random_samples(4)
    alone = model.train_step(samples[:1], labels[:1], exit_index)

    padded = model.train_step(samples, labels, exit_index, np.array([1, 0, 0, 0], np.float32))

    assert padded[0] == pytest.approx(alone[0], rel=1e-6)
    for name, gradient in padded[1].items():
        np.testing.assert_allclose(gradient, alone[1][name], rtol=1e-5, atol=1e-7, err_msg=name)


def test_the_loss_is_the_weighted_sum_of_cross_entropies_and_by_default_their_mean() -> None:
    model, (samples, labels) = trained_model(), random_samples(3)
    (prediction,) = model.infer(samples, 1)
    losses = cross_entropies(prediction.logits, labels)

    weighted, _ = model.train_step(samples, labels, 1, np.array([0.5, 2.0, 1.0], np.float32))
    mean, _ = model.train_step(samples, labels, 1)

    assert weighted == pytest.approx(0.5 * losses[0] + 2 * losses[1] + losses[2], rel=1e-5)
    assert mean == pytest.approx(losses.sum() / 3, rel=1e-5)


@pytest.mark.parametrize("exit_index", EXITS)
def test_each_gradient_is_the_slope_of_the_loss(exit_index: int) -> None:
    model, (samples, labels) = trained_model(), random_samples(4)
    _, gradients = model.train_step(samples, labels, exit_index)

    for name, gradient in gradients.items():
        # Along its own direction a gradient's slope is its length.
        length = float(np.linalg.norm(gradient))
        step = np.float32(0.01) * gradient / np.float32(length)
        model.adapter[name][...] += step
        above = exact_loss(model, samples, labels, exit_index)
        model.adapter[name][...] -= 2 * step
        below = exact_loss(model, samples, labels, exit_index)
        model.adapter[name][...] += step
        assert (above - below) / 0.02 == pytest.approx(length, rel=0.02, abs=1e-4), name


@pytest.mark.parametrize("exit_index", EXITS)
def test_an_exit_reaches_its_rows_and_no_element_beyond_them(exit_index: int) -> None:
    model, (samples, labels) = trained_model(), random_samples(4)
    gradients = Gradients(model.adapter)

    model.accumulate(gradients, samples, labels, exit_index)

    for name, gradient in gradients.arrays.items():
        mask = reached(name, gradient.shape, exit_index)
        assert not gradient[~mask].any(), name
        rows = gradient.reshape(len(gradient), -1)[: mask.shape[0]]
        if name == "accumulator.positions" or name.startswith(PARALLEL):
            assert rows[mask.reshape(rows.shape).any(-1)].any(-1).all(), name
        covered = np.zeros(gradient.shape, bool)
        for part in gradients.coverage:
            if part.name == name:
                assert not covered[part.index].any(), f"{part.key} is named twice"
                covered[part.index] = True
        assert np.array_equal(covered, mask), name


def test_coverage_of_several_exits_is_that_of_the_deepest() -> None:
    model, (samples, labels) = trained_model(), random_samples(4)
    gradients = Gradients(model.adapter)

    for exit_index in (0, 1, 0):
        model.accumulate(gradients, samples, labels, exit_index)

    rows = {part.name: part.ranges for part in gradients.coverage if part.ranges}
    assert rows.pop("accumulator.positions") == ((0, 3),)
    assert set(rows.values()) == {((0, 2),)}


def test_a_step_changes_neither_adapter_nor_buffers_of_others() -> None:
    model, (samples, labels) = trained_model(), random_samples(4)
    before = {name: np.array(array) for name, array in model.adapter.items()}

    first = model.train_step(samples, labels, 2)
    second = model.train_step(samples, labels, 2)

    assert all(np.array_equal(model.adapter[name], array) for name, array in before.items())
    assert first[0] == second[0]
    assert all(np.array_equal(gradient, second[1][name]) for name, gradient in first[1].items())


def test_an_adapter_that_is_still_mapped_can_be_trained_on() -> None:
    model, (samples, labels) = edgefl.load(GOLDEN), random_samples(2)

    loss, gradients = model.train_step(samples, labels, 2)

    # As exported the parallel adapters are silent: W_up is 0, so nothing reaches W_down.
    assert loss == pytest.approx(exact_loss(model, samples, labels, 2), rel=1e-5)
    assert not gradients[f"{PARALLEL}down_weight"].any()
    assert gradients[f"{PARALLEL}up_weight"].any()


def test_images_are_trained_on_through_preprocessing() -> None:
    model = trained_model()
    images, labels = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), np.uint8), np.array([0, 1, 2])

    expected, _ = model.train_step(model.preprocess(images), labels, 1)

    assert model.train_step(images, labels, 1)[0] == expected


def test_a_training_program_run_by_its_name_answers_loss_and_every_adapter_tensor() -> None:
    model, (samples, labels) = trained_model(), random_samples(5)
    loss, gradients = model.train_step(samples, labels, 1)

    answers = model.run("train/1", {"samples": samples, "labels": labels.astype(np.int32)})

    assert answers.pop("loss") == np.float32(loss)
    assert set(answers) == set(model.adapter)
    assert all(np.array_equal(answers[name], gradient) for name, gradient in gradients.items())


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        (np.array([0, 5]), "labels run from 0 to 5, the model has classes 0 to 4"),
        (np.array([-1, 0]), "labels run from -1 to 0"),
        (np.array([0]), r"int64 of shape \(1,\), expected 2 integers"),
        (np.array([[0], [1]]), "expected 2 integers"),
        (np.array([0.0, 1.0]), "labels are float64"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Labels, fault: str) -> None:
    with pytest.raises(SamplesError, match=fault):
        trained_model().train_step(random_samples(2)[0], labels, 0)


@pytest.mark.parametrize("weights", [np.ones(1), np.ones(3), np.ones((2, 1))])
def test_weights_of_another_number_are_refused(weights: np.ndarray[Any, Any]) -> None:
    samples, labels = random_samples(2)

    with pytest.raises(SamplesError, match="expected one for each of 2 samples"):
        trained_model().train_step(samples, labels, 0, weights.astype(np.float32))


def test_training_needs_samples_labels_an_exit_and_a_program() -> None:
    model, (samples, labels) = trained_model(), random_samples(1)

    with pytest.raises(SamplesError, match="there are no samples"):
        model.train_step(samples[:0], labels[:0], 0)
    with pytest.raises(ExitsError, match="exit 3"):
        model.train_step(samples, labels, 3)
    with pytest.raises(SamplesError, match="program train/0 needs labels; it was given samples"):
        model.run("train/0", {"samples": samples})
    with pytest.raises(UnknownProgramError, match="train/3"):
        model.run("train/3", {"samples": samples, "labels": labels})


def test_an_input_no_program_knows_is_refused_and_not_ignored() -> None:
    model, (samples, labels) = trained_model(), random_samples(1)
    misspelt = {"samples": samples, "labels": labels, "wieghts": np.ones(1, np.float32)}

    with pytest.raises(SamplesError, match="was given wieghts; it takes images, labels, samples, weights"):
        model.run("train/0", misspelt)
    with pytest.raises(SamplesError, match="samples and images, which are one input"):
        model.run("infer/0", {"samples": samples, "images": np.zeros((1, 8, 8, 3), np.uint8)})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_and_weights_that_are_no_numbers_are_refused(value: float) -> None:
    model, (samples, labels) = trained_model(), random_samples(1)
    broken = samples.copy()
    broken[0, 0, 0, 0] = value

    with pytest.raises(SamplesError, match="'samples' has NaN or infinite"):
        model.train_step(broken, labels, 0)
    with pytest.raises(SamplesError, match="'weights' has NaN or infinite"):
        model.train_step(samples, labels, 0, np.array([value], np.float32))
