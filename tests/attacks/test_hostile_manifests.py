"""One hostile manifest for each refusal; every one is the golden bundle's with one thing changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgefl.bundle import Bundle
from edgefl.errors import BundleError, ManifestError, NewerBundleError, NotABundleError, PathOutsideError, StorageError
from tests.golden_bundle import GOLDEN, Fields, change_manifest, copy_golden

Tamper = Callable[[Fields], object]
HONEST = (GOLDEN / "manifest.json").read_bytes()


def put(value: Any, *path: str | int) -> Tamper:
    """Return a change that sets one field, and makes it where it is not there."""

    def tamper(fields: Fields) -> None:
        *folders, last = path
        target: Any = fields
        for name in folders:
            target = target[name]
        target[last] = value

    return tamper


def drop(*path: str) -> Tamper:
    def tamper(fields: Fields) -> None:
        *folders, last = path
        target = fields
        for name in folders:
            target = target[name]
        del target[last]

    return tamper


def named(path: str) -> Tamper:
    """Return a change that lists a file under a path."""
    return put({"size": 1, "sha256": "0" * 64}, "files", path)


CALL = ("programs", "infer/0", "calls", 0)
PACKED = ("graphs", "block", "packed", "weights")
HOSTILE: dict[str, tuple[Tamper, type[BundleError], str]] = {
    "a later schema": (put("edgefl.bundle/2", "schema"), NewerBundleError, "update edgefl"),
    "an unknown schema": (put("edgefl.bundle/one", "schema"), ManifestError, "expected edgefl.bundle/1"),
    "no schema": (drop("schema"), ManifestError, "expected edgefl.bundle/1"),
    "a schema that is a number": (put(1, "schema"), ManifestError, "expected edgefl.bundle/1"),
    "an unknown field": (put(1, "hook"), ManifestError, "unknown field `hook`"),
    "an unknown field of a tensor": (put(1, "tensors", "cls_token", "hook"), ManifestError, "hook"),
    "a missing field": (drop("bundle_id"), ManifestError, "missing required field `bundle_id`"),
    "a bundle id that is no sha256": (put("x", "bundle_id"), ManifestError, "bundle_id"),
    "a negative offset": (put(-4, "tensors", "cls_token", "offset"), ManifestError, "offset"),
    "an offset inside a number": (put(3394, "tensors", "cls_token", "offset"), ManifestError, "multiple"),
    "a tensor without axes": (put([], "tensors", "cls_token", "shape"), ManifestError, "shape"),
    "an axis of no length": (put([0], "tensors", "cls_token", "shape"), ManifestError, "shape"),
    "an unknown layout": (put("out_in", "tensors", "cls_token", "layout"), ManifestError, "layout"),
    "an offset behind the file": (put(2**40, "tensors", "cls_token", "offset"), ManifestError, "outside 'backbone"),
    "a tensor longer than its file": (put([2**60], "tensors", "cls_token", "shape"), ManifestError, "lies outside"),
    "a tensor of an unlisted file": (put("x", "tensors", "cls_token", "file"), ManifestError, "lies outside 'x'"),
    "an adapter tensor nobody knows": (put(["x"], "adapter", "tensors"), ManifestError, "the adapter lists"),
    "an adapter tensor that is not listed": (
        lambda fields: fields["adapter"]["tensors"].pop(),
        ManifestError,
        "the adapter lists",
    ),
    "an adapter tensor listed twice": (
        lambda fields: fields["adapter"]["tensors"].append("head.norm.weight"),
        ManifestError,
        "the adapter lists",
    ),
    "an adapter in place of the weights": (
        put("backbone.safetensors", "adapter", "file"),
        ManifestError,
        "a file that must never change",
    ),
    "an adapter in place of the manifest": (
        put("manifest.json", "adapter", "file"),
        ManifestError,
        "a file that must never change",
    ),
    "a graph whose hash is not listed": (drop("files", "block.onnx"), ManifestError, "'block.onnx' is used as a graph"),
    "an exit's graph whose hash is not listed": (put("x.onnx", "stand_alone", "0"), ManifestError, "'x.onnx'"),
    "an unknown graph": (put("blok", *CALL, "graph"), ManifestError, "runs graph 'blok'"),
    "a call with an input too few": (
        lambda fields: fields["programs"]["infer/0"]["calls"][0]["inputs"].pop(),
        ManifestError,
        "does not fit the inputs",
    ),
    "a tensor nobody makes": (put("ghost", *CALL, "inputs", 1), ManifestError, "reads 'ghost'"),
    "a tensor made twice": (put(["cls", "cls"], *CALL, "outputs"), ManifestError, "makes 'cls' a second time"),
    "a weight made by a call": (put(["cls_token", ""], *CALL, "outputs"), ManifestError, "makes 'cls_token'"),
    "rows a weight does not have": (put("pos_embed[0:2]", *CALL, "inputs", 4), ManifestError, "reaches outside"),
    "an answer nobody makes": (put(["ghost"], "programs", "infer/0", "outputs", "logits"), ManifestError, "ghost"),
    "an answer nobody expects": (put(["logits"], "programs", "infer/0", "outputs", "x"), ManifestError, "answers"),
    "a program under another name": (
        lambda fields: fields["programs"].update({"infer/0": fields["programs"]["train/0"]}),
        ManifestError,
        "program 'infer/0' has mode 'train'",
    ),
    "an unknown mode": (put("shell", "programs", "infer/0", "mode"), ManifestError, "mode"),
    "an unknown dtype": (put("object", "programs", "infer/0", "inputs", "samples", "dtype"), ManifestError, "dtype"),
    "a batch of none": (put(0, "programs", "train/0", "batch"), ManifestError, "batch"),
    "a program without its cost": (drop("costs", "infer/0"), ManifestError, "no entry in `costs`"),
    "a variant without its cost": (drop("costs", "train/0/fast"), ManifestError, "no entry in `costs`"),
    "a variant of nothing": (put("train/9", "variants", "train/0/fast", "program"), ManifestError, "is of 'train/9'"),
    "a variant of another program": (
        put("infer/0", "variants", "train/0/fast", "program"),
        ManifestError,
        "is of 'infer/0', which is no program of its name",
    ),
    "a variant of preprocessing": (
        lambda fields: fields["variants"].update(
            {"preprocess/fast": {"program": "preprocess", "batch": None, "packed": True}}
        ),
        ManifestError,
        "is of 'preprocess'",
    ),
    "a packed graph whose hash is not listed": (
        drop("files", "block_packed.onnx"),
        ManifestError,
        "'block_packed.onnx'",
    ),
    "a packed graph of a weight its graph does not take": (put(["ghost"], *PACKED), ManifestError, "not some of its"),
    "a packed graph of the same weight twice": (put(["cls", "cls"], *PACKED), ManifestError, "not some of its inputs"),
    "a packed graph without weights": (put([], *PACKED), ManifestError, "length"),
    "a packed graph of what a call makes": (put(["cls"], *PACKED), ManifestError, "packs 'cls'"),
    "a packed graph of the adapter": (
        lambda fields: fields["graphs"]["answer"].update(packed={"file": "block.onnx", "weights": ["client_token"]}),
        ManifestError,
        "packs 'accumulator.client_token'",
    ),
    "a program without its input": (drop("programs", "infer/0", "inputs", "samples"), ManifestError, "is given {}"),
    "a program with an input of another rank": (
        put([], "programs", "train/0", "inputs", "labels", "shape"),
        ManifestError,
        r"'labels': \('int64', 0\)",
    ),
    "inference of so many samples": (put(3, "programs", "infer/0", "batch"), ManifestError, "expected any number"),
    "inference of a fixed number of samples": (
        put([3, 1, 16, 16], "programs", "infer/0", "inputs", "samples", "shape"),
        ManifestError,
        r"takes \{3\} samples",
    ),
    "training of as many labels as samples, but for one": (
        put([3], "programs", "train/0", "inputs", "labels", "shape"),
        ManifestError,
        "expected any number",
    ),
    "a variant of inference of so many samples": (
        put(3, "variants", "infer/0/fast", "batch"),
        ManifestError,
        "takes 3 samples",
    ),
    "a variant of no samples": (put(0, "variants", "train/0/fast", "batch"), ManifestError, "batch"),
    "a self-test whose hash is not listed": (drop("files", "selftest.safetensors"), ManifestError, "as the self-test"),
    "a self-test that is the adapter": (put("adapter.safetensors", "selftest", "file"), ManifestError, "self-test"),
    "a self-test of no exit": (put([], "selftest", "exits"), ManifestError, "length"),
    "a self-test of an exit that is not there": (put([0, 3], "selftest", "exits"), ManifestError, r"exits \[0, 3\]"),
    "a self-test of falling exits": (put([0, 2, 1], "selftest", "exits"), ManifestError, "rising, with the first"),
    "a self-test without the shallowest exit": (put([1, 2], "selftest", "exits"), ManifestError, "with the first"),
    "a self-test that accepts everything": (put(1.0, "selftest", "tolerance"), ManifestError, "tolerance"),
    "a self-test that accepts nothing": (put(0.0, "selftest", "tolerance"), ManifestError, "tolerance"),
    "coverage outside the tensor": (
        put(["loss"], "programs", "train/0", "outputs", "accumulator.positions[0:6]"),
        ManifestError,
        "reaches outside",
    ),
    "coverage of a frozen tensor": (
        put(["loss"], "programs", "train/0", "outputs", "cls_token"),
        ManifestError,
        "'cls_token', which is no adapter tensor",
    ),
    "coverage that is no key": (put(["loss"], "programs", "train/0", "outputs", "w[0"), ManifestError, "no tensor key"),
    "a path to the folder above": (named("../secret"), PathOutsideError, "'../secret'"),
    "a path that goes down and up": (named("a/../../secret"), PathOutsideError, "outside the bundle"),
    "an absolute path": (named("/etc/passwd"), PathOutsideError, "'/etc/passwd'"),
    "a path of another system": (named("a\\..\\secret"), PathOutsideError, "outside the bundle"),
    "a drive": (named("c:/secret"), PathOutsideError, "outside the bundle"),
    "an empty path": (named(""), PathOutsideError, "outside the bundle"),
    "the folder itself": (named("."), PathOutsideError, "outside the bundle"),
    "a path with an end inside": (named("a\0b"), PathOutsideError, "outside the bundle"),
    "an adapter outside": (put("../adapter", "adapter", "file"), PathOutsideError, "'../adapter'"),
}


@pytest.mark.parametrize(("tamper", "error", "fault"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_manifest_that_lies_is_refused(tmp_path: Path, tamper: Tamper, error: type[BundleError], fault: str) -> None:
    bundle = copy_golden(tmp_path)
    change_manifest(bundle, tamper)

    with pytest.raises(error, match=fault) as refusal:
        Bundle(bundle)

    assert type(refusal.value) is error
    assert refusal.value.exit_code == 3


BROKEN = {
    "nothing": b"",
    "no JSON": b"schema: edgefl.bundle/1",
    "a list": b"[]",
    "a truncated file": HONEST[:-100],
    "text behind the end": HONEST + b"x",
    "bytes that are no text": HONEST.replace(b"golden", b"g\xff\xffden"),
    "arrays nested without end": HONEST.replace(b'"golden"', b"[" * 100_000 + b"]" * 100_000),
    "half a character": HONEST.replace(b"golden", rb"\ud800"),
    "a number without end": HONEST.replace(b'"classes": 5', b'"classes": 1' + b"0" * 5000),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_a_manifest_that_is_no_json_of_its_schema_is_refused(tmp_path: Path, text: bytes) -> None:
    bundle = copy_golden(tmp_path)
    (bundle / "manifest.json").write_bytes(text)

    with pytest.raises(ManifestError, match="export the bundle again"):
        Bundle(bundle)


def test_a_manifest_too_large_to_be_one_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(64 * 1024 * 1024 + 1)  # a hole: no disk is used

    with pytest.raises(ManifestError, match="larger than 67108864 bytes"):
        Bundle(tmp_path)


def test_a_path_longer_than_the_system_knows_is_a_storage_error(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)
    change_manifest(bundle, named("x" * 5000))

    with pytest.raises(StorageError, match="too long"):
        Bundle(bundle)


def test_a_program_without_end_is_checked_in_one_pass(tmp_path: Path) -> None:
    fields = json.loads(HONEST)
    fields["graphs"]["wide"] = {"file": "block.onnx", "inputs": [], "outputs": [str(i) for i in range(100_000)]}
    wide = {"graph": "wide", "inputs": [], "outputs": [f"t{i}" for i in range(99_999)] + ["t0"]}
    fields["programs"]["infer/0"]["calls"].append(wide)
    (tmp_path / "manifest.json").write_text(json.dumps(fields), encoding="utf-8")

    with pytest.raises(ManifestError, match="makes 't0' a second time"):
        Bundle(tmp_path)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none", GOLDEN / "block.onnx"):
        with pytest.raises(NotABundleError, match="make one with `edgefl export`"):
            Bundle(folder)


def test_a_manifest_that_is_a_folder_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()

    with pytest.raises(NotABundleError):
        Bundle(tmp_path)
