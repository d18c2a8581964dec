"""What a device finds out about itself, and when it may not go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgefl.bundle import Adapter, Bundle
from edgefl.errors import SelfTestError
from edgefl.runtime.model import load
from edgefl.selftest.replay import Replay, affordable_programs, all_programs, replay
from tests.golden_bundle import GOLDEN, change_manifest, copy_golden, trained_adapter, trained_model
from tests.selftest.tampered import Arrays, with_constant, with_golden_values


def replayed(bundle: Path) -> Replay:
    model = load(bundle)
    return replay(model, all_programs(model.bundle))


def values(found: Replay) -> dict[tuple[int, str], float]:
    return {(deviation.exit_index, deviation.quantity): deviation.value for deviation in found.deviations}


def test_this_device_computes_what_the_exporter_computed() -> None:
    found = replayed(GOLDEN)

    assert found.tolerance == 1e-4
    assert values(found).keys() == {(e, q) for e in (0, 1, 2) for q in ("logits", "loss", "gradient_norm")}
    assert 0 < found.largest < 1e-5
    found.check()


def test_an_adapter_that_rounds_have_changed_changes_nothing(tmp_path: Path) -> None:
    bundle = Bundle(copy_golden(tmp_path))
    trained = Adapter(bundle_id=bundle.manifest.bundle_id, version=7, round=9, tensors=trained_adapter())
    trained.save(bundle.folder / "adapter.safetensors", bundle.manifest.adapter.header_bytes)

    assert values(replayed(bundle.folder)) == values(replayed(GOLDEN))


def test_afterwards_the_model_has_the_adapter_it_had() -> None:
    model = trained_model()
    before = model.adapter

    replay(model, ["infer/0"])

    assert model.adapter is before


def test_every_program_of_a_tested_exit_is_run_and_every_knob_of_the_deepest() -> None:
    assert all_programs(Bundle(GOLDEN)) == [
        "infer/0", "train/0", "infer/1", "train/1", "infer/2", "train/2",
        "train/2/lean", "infer/2/lean", "infer/2/balanced", "infer/2/fast", "train/2/balanced", "train/2/fast",
    ]  # fmt: skip


def test_a_client_runs_only_what_it_can_afford_with_the_knob_it_has() -> None:
    lean = ["infer/0/lean", "train/0/lean", "infer/1/lean", "train/1/lean"]
    assert affordable_programs(load(GOLDEN, memory="lean"), 1) == lean
    assert affordable_programs(load(GOLDEN), 0) == ["infer/0", "train/0"]


def test_a_client_between_two_tested_exits_runs_the_shallower_one(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)
    change_manifest(bundle, lambda fields: fields["selftest"].update(exits=[0, 2]))

    assert affordable_programs(load(bundle), 1) == ["infer/0", "train/0"]


def scaled(name: str, factor: float) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name] = (arrays[name] * factor).astype(np.float32)

    return change


@pytest.mark.parametrize(
    ("name", "key"),
    [("logits_01", (1, "logits")), ("loss_02", (2, "loss")), ("gradient_norms_00", (0, "gradient_norm"))],
)
def test_twice_the_tolerance_is_refused_with_exit_and_quantity_and_half_of_it_is_not(
    name: str, key: tuple[int, str], tmp_path: Path
) -> None:
    far = replayed(with_golden_values(tmp_path, scaled(name, 1 / (1 + 2e-4))))
    assert values(far)[key] == pytest.approx(2e-4, rel=0.05)
    assert [k for k, value in values(far).items() if value > 1e-4] == [key]
    with pytest.raises(SelfTestError, match=rf"computed: exit {key[0]} {key[1]} 2\.0e-04 \(.* at most 1e-04"):
        far.check()

    near = replayed(with_golden_values(tmp_path, scaled(name, (1 + 2e-4) / (1 + 5e-5))))
    assert values(near)[key] == pytest.approx(5e-5, rel=0.2)
    near.check()


def test_logits_are_compared_with_the_largest_of_them(tmp_path: Path) -> None:
    def shift(arrays: Arrays) -> None:
        logits = arrays["logits_00"]
        # Up, so that the largest stays what it is, and at the smallest, of which this is far more than 1e-3.
        logits.flat[np.abs(logits).argmin()] += 1e-3 * np.abs(logits).max()

    assert values(replayed(with_golden_values(tmp_path, shift)))[0, "logits"] == pytest.approx(1e-3, rel=0.01)


def test_a_norm_is_compared_with_itself_or_a_thousandth_of_the_largest(tmp_path: Path) -> None:
    def shift(arrays: Arrays) -> None:
        norms = arrays["gradient_norms_02"]
        norms[norms.argmin()] *= 1 + 1e-3

    smallest = replayed(with_golden_values(tmp_path, shift))
    assert values(smallest)[2, "gradient_norm"] == pytest.approx(1e-3, rel=0.02)

    def forget(arrays: Arrays) -> None:
        norms = arrays["gradient_norms_02"]
        norms[norms.argmin()] = 0.0
        norms[norms.argmax()] = 1e6

    # Now the smallest, about 0.01, is off by a hundred-thousandth of the floor of 1000; the largest by all it is.
    forgotten = replayed(with_golden_values(tmp_path, forget))
    assert values(forgotten)[2, "gradient_norm"] == pytest.approx(1.0, rel=1e-5)


def test_of_two_programs_of_one_exit_the_one_that_is_wrong_is_found_and_named(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)
    change_manifest(bundle, lambda fields: fields["programs"].update({"train/2/odd": odd_program(fields)}))
    change_manifest(bundle, lambda fields: fields["costs"].update({"train/2/odd": fields["costs"]["train/2"]}))
    model = load(bundle)

    found = replay(model, ["train/2", "train/2/odd"])

    assert values(found)[2, "loss"] < 1e-5
    with pytest.raises(SelfTestError, match=r"exit 2 gradient_norm .* in train/2/odd\)"):
        found.check()


def odd_program(fields: dict[str, dict[str, dict[str, dict[str, object]]]]) -> dict[str, dict[str, object]]:
    """Return train/2 with two gradients of one shape in each other's place."""
    program = dict(fields["programs"]["train/2"])
    outputs = dict(program["outputs"])
    first, second = "head.norm.weight", "head.norm.bias"
    outputs[first], outputs[second] = outputs[second], outputs[first]
    return program | {"outputs": outputs}


def test_the_adapter_is_put_back_when_the_preprocessing_gives_no_numbers(tmp_path: Path) -> None:
    # Divided by a deviation of 0.35 * 255; by 0 it would be infinite.
    model = load(with_constant(tmp_path, "preprocess", 0.35 * 255, 0.0))
    before = model.adapter

    with pytest.raises(SelfTestError, match="preprocessing graph gives NaN or infinite"):
        replay(model, ["infer/0"])

    assert model.adapter is before
