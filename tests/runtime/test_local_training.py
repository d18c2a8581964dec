"""Local epochs: which exits a step trains, what it reaches, when it ends, and that it can be repeated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgefl
from edgefl.core.tensor_slice import TensorSlice
from edgefl.errors import InstructionError
from edgefl.runtime.gradients import Gradients
from edgefl.runtime.local_training import LocalPlan, LocalResult, train_locally
from edgefl.runtime.model import Model
from edgefl.runtime.weights import FloatArray
from edgefl.samples.arrays import ArraySamples
from tests.golden_bundle import (
    CLASSES,
    EXITS,
    Fields,
    change_manifest,
    copy_golden,
    cross_entropies,
    random_samples,
    trained_adapter,
    trained_model,
)

PLAN = LocalPlan(
    exit_index=2,
    draw="own",
    seed=3,
    optimizer="sgd",
    learning_rate=0.1,
    momentum=0.0,
    weight_decay=0.0,
    clip=0.0,
    epochs=1,
    batch_size=4,
)
# So small that no float32 value moves.
STANDING = dataclasses.replace(PLAN, learning_rate=1e-30)


class Watched(ArraySamples):
    """Samples that remember in which pieces they were read."""

    def __init__(self, count: int, seed: int = 0) -> None:
        samples, labels = random_samples(count, seed)
        super().__init__(samples, labels, CLASSES)
        self.samples = samples
        self.reads: list[list[int]] = []

    def read(self, indices: Sequence[int]) -> list[np.ndarray[Any, Any]]:
        """Remember the piece and return it."""
        self.reads.append(list(indices))
        return super().read(indices)


def changed(model: Model, **options: Any) -> tuple[LocalResult, dict[str, FloatArray]]:
    """Train on ten samples; return the result and by how much each value moved."""
    before = {name: np.array(array) for name, array in model.adapter.items()}
    result = train_locally(model, Watched(10), dataclasses.replace(PLAN, **options))
    return result, {name: model.adapter[name] - before[name] for name in before}


def deepest_row(result: LocalResult) -> int:
    """Return the deepest exit a result covers: exit e reaches the position rows 0 to e + 1."""
    ((start, stop),) = [part.ranges[0] for part in result.coverage if part.name == "accumulator.positions"] or [(0, 0)]  # type: ignore[misc]  # rows are always named here
    assert start == 0
    return stop - 2


@pytest.mark.parametrize("deepest", EXITS)
def test_a_drawn_exit_is_any_of_the_bundle_s_up_to_the_deepest_and_no_other(deepest: int) -> None:
    plans = [
        dataclasses.replace(PLAN, draw="uniform", exit_index=deepest, batch_size=10, seed=seed) for seed in range(16)
    ]
    model = trained_model()

    drawn = {deepest_row(train_locally(model, Watched(10), plan)) for plan in plans}

    assert drawn == set(range(deepest + 1))


@pytest.mark.parametrize("deepest", EXITS)
def test_own_trains_its_own_exit_in_every_step(deepest: int) -> None:
    model = trained_model()

    results = [
        train_locally(model, Watched(4), dataclasses.replace(PLAN, exit_index=deepest, seed=seed)) for seed in range(8)
    ]

    assert {deepest_row(result) for result in results} == {deepest}


def test_an_exit_the_bundle_does_not_have_is_never_drawn(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)

    def without_exit_1(fields: Fields) -> None:
        fields["exits"].remove(1)
        fields["selftest"]["exits"].remove(1)
        for name in ("infer/1", "train/1", "train/1/lean"):
            del fields["programs"][name]
        del fields["programs"]["anytime"]["outputs"]["logits_01"]
        fields["stand_alone"].pop("1")
        for name in [name for name in fields["variants"] if name.startswith(("infer/1/", "train/1/"))]:
            del fields["variants"][name]

    change_manifest(bundle, without_exit_1)
    model = edgefl.load(bundle)
    model.use_adapter(trained_adapter())

    result = train_locally(model, Watched(10), dataclasses.replace(PLAN, draw="uniform", epochs=8))

    assert result.steps == 24
    assert deepest_row(result) == 2


@pytest.mark.parametrize("optimizer", [{"optimizer": "adamw", "weight_decay": 0.5}, {"momentum": 0.9}])
@pytest.mark.parametrize("exit_index", [0, 1])
def test_an_element_that_no_step_covered_keeps_its_exact_bits_and_all_others_move(
    optimizer: dict[str, Any], exit_index: int
) -> None:
    model = trained_model()
    before = {name: np.array(array) for name, array in model.adapter.items()}

    result, _ = changed(model, epochs=3, exit_index=exit_index, **optimizer)

    for name, array in model.adapter.items():
        covered = np.zeros(array.shape, bool)
        for part in result.coverage:
            if part.name == name:
                covered[part.index] = True
        # As integers: 0.0 and -0.0 are not the same bits.
        is_same = array.view(np.int32) == before[name].view(np.int32)
        assert is_same[~covered].all(), name
        assert not is_same[covered].all(), name


def test_coverage_is_the_union_of_the_steps() -> None:
    model = trained_model()
    plan = dataclasses.replace(PLAN, draw="uniform", epochs=4)

    result, moved = changed(model, draw="uniform", epochs=4)

    assert deepest_row(result) == plan.exit_index
    assert len({part.name for part in result.coverage}) == len(result.coverage) == len(moved)
    assert all(moved[part.name][part.index].any() for part in result.coverage)
    assert TensorSlice.parse("parallel_adapters.up_weight[0:3]") in result.coverage


def test_every_epoch_has_every_sample_once_and_an_order_of_its_own() -> None:
    samples = Watched(10)

    result = train_locally(trained_model(), samples, dataclasses.replace(STANDING, epochs=2))

    assert [len(piece) for piece in samples.reads] == [4, 4, 2, 4, 4, 2]
    first, second = (list(chain.from_iterable(half)) for half in (samples.reads[:3], samples.reads[3:]))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert (result.steps, result.num_examples) == (6, 10)


def test_the_loss_is_the_mean_over_the_samples_a_short_last_batch_included() -> None:
    model, samples = trained_model(), Watched(10)
    (prediction,) = model.infer(samples.samples, 2)

    result = train_locally(model, samples, STANDING)

    # The last batch has two samples: the mean of the batches' means would be another number.
    assert result.loss == pytest.approx(cross_entropies(prediction.logits, samples.labels).mean(), rel=1e-5)


@pytest.mark.parametrize("exit_index", [0, 2])
def test_the_loss_falls_on_samples_that_can_be_learned(exit_index: int) -> None:
    labels = np.arange(10) % 2
    images = np.zeros((10, 1, 16, 16), np.float32)
    images[..., :8] = np.where(labels, 1.0, -1.0)[:, None, None, None]  # the left half is bright or dark
    samples, model = ArraySamples(images, labels, CLASSES), trained_model()
    plan = dataclasses.replace(PLAN, exit_index=exit_index, optimizer="adamw", learning_rate=0.003, clip=1.0)

    first = train_locally(model, samples, plan).loss
    last = train_locally(model, samples, dataclasses.replace(plan, epochs=50)).loss

    assert first > math.log(2)  # guessing between the two classes that occur
    assert last < 0.05


def test_the_same_plan_and_samples_give_the_same_bits_and_another_seed_or_device_others() -> None:
    def bits(count: int = 10, **options: Any) -> list[bytes]:
        model = trained_model()
        plan = dataclasses.replace(PLAN, draw="uniform", momentum=0.9, epochs=2, **options)
        train_locally(model, Watched(count), plan)
        return [array.tobytes() for array in model.adapter.values()]

    assert bits() == bits()
    assert bits(seed=4) != bits()


def test_devices_with_other_numbers_of_samples_get_other_orders_from_the_same_seed() -> None:
    orders = []
    for count in (10, 11):
        samples = Watched(count)
        train_locally(trained_model(), samples, STANDING)
        orders.append([index for index in chain.from_iterable(samples.reads) if index < 10])

    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def length(moved: dict[str, FloatArray]) -> float:
    return math.sqrt(sum(float((array.astype(np.float64) ** 2).sum()) for array in moved.values()))


def test_a_gradient_longer_than_clip_is_cut_to_it_and_keeps_its_direction() -> None:
    _, whole = changed(trained_model(), batch_size=10, learning_rate=1.0)
    _, clipped = changed(trained_model(), batch_size=10, learning_rate=1.0, clip=length(whole) / 4)
    _, loose = changed(trained_model(), batch_size=10, learning_rate=1.0, clip=length(whole) * 4)

    assert length(clipped) == pytest.approx(length(whole) / 4, rel=1e-4)
    for name, array in whole.items():
        np.testing.assert_allclose(4 * clipped[name], array, rtol=1e-2, atol=1e-5, err_msg=name)
        assert np.array_equal(loose[name], array), name


def test_a_large_batch_is_read_in_pieces_and_is_still_one_step_of_its_mean() -> None:
    model, samples = trained_model(), Watched(130)
    gradients = Gradients(model.adapter)
    before = {name: np.array(array) for name, array in model.adapter.items()}
    loss = model.accumulate(gradients, samples.samples, samples.labels, 2)

    result = train_locally(model, samples, dataclasses.replace(PLAN, batch_size=10**12, learning_rate=1.0))

    assert [len(piece) for piece in samples.reads] == [64, 64, 2]
    assert result.steps == 1
    assert result.loss == pytest.approx(loss, rel=1e-5)
    for name, array in before.items():
        np.testing.assert_allclose(array - model.adapter[name], gradients.arrays[name], atol=1e-5, err_msg=name)


def lasting(looks: int) -> Iterator[bool]:
    """Say that there is time, so many times."""
    return chain(repeat(object=True, times=looks), repeat(object=False))


@pytest.mark.parametrize(("looks", "trained_on"), [(1, 4), (2, 8), (3, 10), (5, 10)])
def test_when_the_time_is_over_the_steps_that_were_made_are_the_result(looks: int, trained_on: int) -> None:
    samples, time = Watched(10), lasting(looks)
    plan = dataclasses.replace(PLAN, epochs=10**12)

    result = train_locally(trained_model(), samples, plan, lambda: next(time))

    assert (result.steps, result.num_examples) == (looks, trained_on)
    assert len(samples.reads) == looks
    assert math.isfinite(result.loss)


def test_coverage_is_that_of_the_steps_there_was_time_for() -> None:
    plan = dataclasses.replace(PLAN, draw="uniform", epochs=10)
    rows = []
    for looks in (1, 2, 3, 30):
        time = lasting(looks)
        rows.append(deepest_row(train_locally(trained_model(), Watched(10), plan, lambda time=time: next(time))))  # type: ignore[misc]  # mypy knows no lambda with a default

    assert rows == sorted(rows)
    assert rows[0] < rows[-1] == 2


def test_a_step_there_was_no_time_to_finish_leaves_no_trace() -> None:
    model, time = trained_model(), lasting(1)
    before = {name: np.array(array) for name, array in model.adapter.items()}
    plan = dataclasses.replace(PLAN, batch_size=100, optimizer="adamw", weight_decay=0.1)

    result = train_locally(model, Watched(100), plan, lambda: next(time))

    assert (result.steps, result.num_examples, result.coverage) == (0, 0, ())
    assert math.isnan(result.loss)
    assert all(np.array_equal(model.adapter[name], array) for name, array in before.items())


def test_training_that_diverges_ends_at_once() -> None:
    plan = dataclasses.replace(PLAN, learning_rate=1e9, epochs=10**12)

    with pytest.raises(InstructionError, match=r"training diverged: the loss is (nan|inf) after \d+ steps; lower the"):
        train_locally(trained_model(), Watched(10), plan)


@pytest.mark.parametrize("epochs", [1, 3])
def test_training_ends_after_the_epoch_that_is_answered_with_no_as_if_there_were_no_more(epochs: int) -> None:
    model, asked = trained_model(), list[int]()
    expected, _ = changed(trained_model(), epochs=epochs, momentum=0.9)
    values = {name: np.array(array) for name, array in model.adapter.items()}
    model.use_adapter(trained_adapter())

    def goes_on() -> bool:
        asked.append(len(asked) + 1)
        return len(asked) < epochs

    result = train_locally(model, Watched(10), dataclasses.replace(PLAN, epochs=10**12, momentum=0.9), goes_on=goes_on)

    assert asked == list(range(1, epochs + 1))
    assert (result.steps, result.num_examples) == (expected.steps, 10)
    # Bit for bit: momentum goes on from one epoch to the next.
    assert all(np.array_equal(model.adapter[name], array) for name, array in values.items())


def test_an_epoch_that_the_time_has_cut_short_is_not_asked_about() -> None:
    asked, time = list[int](), lasting(4)

    train_locally(
        trained_model(),
        Watched(10),
        dataclasses.replace(PLAN, epochs=5),
        lambda: next(time),
        goes_on=lambda: asked.append(1) is None,
    )

    assert len(asked) == 1  # three steps each; the fourth is the second epoch's first
