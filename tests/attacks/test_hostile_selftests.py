"""Bundles whose hashes are right and which compute something else, and golden values that cannot be replayed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefl.cli import main
from edgefl.errors import EdgeFLError, HashError, ManifestError, SelfTestError, SelfTestFileError, TensorFileError
from edgefl.runtime.model import load
from edgefl.selftest.replay import all_programs, replay
from tests.golden_bundle import Fields, change_manifest, copy_golden
from tests.selftest.tampered import Arrays, with_constant, with_file, with_golden_values


def check(bundle: Path) -> None:
    model = load(bundle)
    replay(model, all_programs(model.bundle)).check()


@pytest.mark.parametrize(
    ("graph", "old", "new", "found"),
    [
        ("preprocess", 0.3 * 255, 0.31 * 255, "exit 0 logits"),
        ("block_exit", 1e-6, 1e-2, "exit 0 logits"),
        ("block_exit_saved", 1e-6, 1e-2, "exit 0 loss"),
        ("modulate", 1e-5, 1e-2, "exit 1 logits"),
        ("answer", 1e-5, 1e-2, "exit 0 logits"),
    ],
)
def test_one_changed_constant_of_a_graph_is_found(
    graph: str, old: float, new: float, found: str, tmp_path: Path
) -> None:
    bundle = with_constant(tmp_path, graph, old, new)

    with pytest.raises(SelfTestError, match=found):
        check(bundle)


def swap(table: str, first: str, second: str, field: str) -> Callable[[Fields], None]:
    def tamper(fields: Fields) -> None:
        one, other = fields[table][first], fields[table][second]
        one[field], other[field] = other[field], one[field]

    return tamper


def swap_gradients(first: str, second: str) -> Callable[[Fields], None]:
    def tamper(fields: Fields) -> None:
        outputs = fields["programs"]["train/1"]["outputs"]
        outputs[first], outputs[second] = outputs[second], outputs[first]

    return tamper


REWIRED: dict[str, tuple[Callable[[Fields], object], type[EdgeFLError], str]] = {
    "two weights of one shape in each other's place": (
        swap("tensors", "blocks.1.norm1.weight", "blocks.1.attn.proj.bias", "offset"),
        SelfTestError,
        "exit 1 logits",
    ),
    "two gradients of one shape in each other's place": (
        swap_gradients("head.norm.weight", "head.norm.bias"),
        SelfTestError,
        r"exit 1 gradient_norm .* \(head\.norm\.\w+ in train/1\)",
    ),
    "two gradients of different shapes in each other's place": (
        swap_gradients("head.norm.weight", "head.mlp.fc1.bias"),
        ManifestError,
        r"the gradient of 'head\.\S+' has shape",
    ),
    "a gradient for a loss": (
        lambda fields: fields["programs"]["train/1"]["outputs"].update(
            loss=fields["programs"]["train/1"]["outputs"]["head.norm.bias"]
        ),
        ManifestError,
        r"train/1: the loss has shape \(24,\), expected one number",
    ),
    "a gradient that is forgotten": (
        lambda fields: fields["programs"]["train/1"]["outputs"].pop("head.norm.bias"),
        SelfTestError,
        r"exit 1 gradient_norm 1\.0e\+00 \(head\.norm\.bias in train/1\)",
    ),
    "another number of classes": (
        lambda fields: fields["model"].update(classes=6),
        SelfTestFileError,
        r"'logits_00' is float32 of shape \(2, 5\), expected finite float32 \(2, 6\)",
    ),
    "fewer classes than labels": (
        lambda fields: fields["model"].update(classes=4),
        SelfTestFileError,
        r"'labels' is int64 of shape \(2,\), expected int64 \(2,\) from 0 to 3",
    ),
    "more classes than memory": (
        lambda fields: fields["model"].update(classes=2**62),
        SelfTestFileError,
        "'logits_00' is float32",
    ),
    "no training at a tested exit": (
        lambda fields: (fields["programs"].pop("train/1"), [fields["variants"].pop(f"train/1/{k}") for k in KNOBS]),
        EdgeFLError,
        "no program 'train/1'",
    ),
}
KNOBS = ("balanced", "fast")


@pytest.mark.parametrize(("tamper", "error", "fault"), REWIRED.values(), ids=REWIRED.keys())
def test_a_manifest_whose_programs_compute_something_else_is_refused(
    tamper: Callable[[Fields], object], error: type[EdgeFLError], fault: str, tmp_path: Path
) -> None:
    bundle = copy_golden(tmp_path)
    change_manifest(bundle, tamper)

    with pytest.raises(error, match=fault):
        check(bundle)


def put(name: str, value: Any) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.update({name: np.asarray(value)})


def number(name: str, value: float) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name].flat[0] = value

    return change


UNUSABLE: dict[str, tuple[Callable[[Arrays], object], str]] = {
    "a tensor too few": (lambda arrays: arrays.pop("loss_01"), "too many tensors: loss_01;"),
    "a tensor too many": (put("extra", np.zeros(1, np.float32)), "too many tensors: extra;"),
    "an exit that is not tested": (put("loss_03", np.zeros((), np.float32)), "too many tensors: loss_03;"),
    "NaN": (number("loss_01", np.nan), "'loss_01' is float32 of shape"),
    "infinity": (number("gradient_norms_02", np.inf), "'gradient_norms_02' is float32"),
    "another shape": (put("logits_00", np.zeros((5, 2), np.float32)), r"expected finite float32 \(2, 5\)"),
    "a norm too few": (put("gradient_norms_00", np.zeros(22, np.float32)), r"expected finite float32 \(23,\)"),
    "another dtype": (put("loss_00", np.zeros((), np.float64)), "'loss_00' is float64"),
    "no images": (put("images", np.zeros((0, 4, 4, 3), np.uint8)), "'images' is uint8"),
    "images of no axis": (put("images", np.uint8(3)), r"'images' is uint8 of shape \(\)"),
    "images with an alpha channel": (put("images", np.zeros((2, 4, 4, 4), np.uint8)), "'images' is uint8"),
    "images that are samples": (put("images", np.zeros((2, 4, 4, 3), np.float32)), "'images' is float32"),
    "a negative label": (number("labels", -1), "'labels' is int64"),
    "a label for each pixel": (put("labels", np.zeros((2, 4), np.int64)), "'labels' is int64"),
}


@pytest.mark.parametrize(("change", "fault"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_golden_values_that_do_not_fit_are_refused(
    change: Callable[[Arrays], object], fault: str, tmp_path: Path
) -> None:
    bundle = with_golden_values(tmp_path, change)

    with pytest.raises(SelfTestFileError, match=fault) as refusal:
        check(bundle)

    assert refusal.value.exit_code == 3


def test_golden_values_of_zero_are_no_division_by_zero(tmp_path: Path) -> None:
    def change(arrays: Arrays) -> None:
        for name, array in arrays.items():
            if array.dtype == np.float32:
                array[...] = 0.0
            assert name

    with pytest.raises(SelfTestError, match=r"exit 0 logits 1\.0e\+06"):
        check(with_golden_values(tmp_path, change))


def test_a_file_that_is_no_tensor_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TensorFileError):
        check(with_file(tmp_path, "selftest.safetensors", b"no tensors"))


def test_golden_values_changed_without_their_hash_are_refused(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)
    data = bytearray((bundle / "selftest.safetensors").read_bytes())
    data[-1] ^= 1
    (bundle / "selftest.safetensors").write_bytes(data)

    with pytest.raises(HashError, match=r"selftest\.safetensors is not the file that was exported"):
        check(bundle)


def test_the_command_says_all_this_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["selftest", str(with_golden_values(tmp_path, number("loss_01", np.nan)))])

    assert end.value.code == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.endswith("copy or export the bundle again\n")
