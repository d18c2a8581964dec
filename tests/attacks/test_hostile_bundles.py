"""Hostile files around an honest manifest: exchanged, missing, linked elsewhere; and adapters that do not belong."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgefl.bundle import Bundle
from edgefl.bundle.adapter import encode_adapter
from edgefl.core.tensors import TensorFile, encode_tensors
from edgefl.errors import (
    AdapterLayoutError,
    AdapterValueError,
    BundleError,
    EdgeFLError,
    HashError,
    ManifestError,
    MissingFileError,
    NotABundleError,
    PathOutsideError,
    TensorFileError,
)
from edgefl.runtime.model import load
from edgefl.runtime.weights import FloatArray
from tests.golden_bundle import GOLDEN, Fields, change_manifest, copy_golden, random_samples

ADAPTER = Bundle(GOLDEN).adapter()
HEADER_BYTES = Bundle(GOLDEN).manifest.adapter.header_bytes


def test_an_exchanged_file_of_the_same_size_is_refused(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)
    data = bytearray((bundle / "backbone.safetensors").read_bytes())
    data[-1] ^= 1
    (bundle / "backbone.safetensors").write_bytes(data)

    with pytest.raises(HashError, match=r"backbone\.safetensors is not the file that was exported"):
        Bundle(bundle)


def test_a_truncated_file_is_refused_before_it_is_mapped(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)
    os.truncate(bundle / "backbone.safetensors", 100)

    with pytest.raises(HashError, match="100 bytes, expected 68672"):
        Bundle(bundle)


@pytest.mark.parametrize("name", ["block.onnx", "backbone.safetensors", "adapter.safetensors"])
def test_a_missing_file_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    bundle = copy_golden(tmp_path)
    (bundle / name).unlink()

    with pytest.raises(MissingFileError, match=f"has no file '{name}'"):
        Bundle(bundle)


@pytest.mark.parametrize("name", ["block.onnx", "adapter.safetensors"])
def test_a_link_out_of_the_folder_is_refused_though_the_file_is_the_right_one(tmp_path: Path, name: str) -> None:
    bundle = copy_golden(tmp_path)
    (bundle / name).unlink()
    (bundle / name).symlink_to(GOLDEN / name)

    with pytest.raises(PathOutsideError, match=f"'{name}' leads outside"):
        Bundle(bundle)


def test_a_linked_folder_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)
    (bundle / "graphs").symlink_to(GOLDEN)
    change_manifest(bundle, lambda f: f["files"].update({"graphs/block.onnx": f["files"]["block.onnx"]}))

    with pytest.raises(PathOutsideError, match=r"'graphs/block\.onnx' leads outside"):
        Bundle(bundle)


def test_links_in_a_circle_are_a_missing_file(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)
    (bundle / "block.onnx").unlink()
    (bundle / "block.onnx").symlink_to("block.onnx")

    with pytest.raises(MissingFileError):
        Bundle(bundle)


@pytest.mark.parametrize(("name", "error"), [("block.onnx", MissingFileError), ("manifest.json", NotABundleError)])
def test_a_pipe_in_a_file_s_place_does_not_make_a_device_wait(
    tmp_path: Path, name: str, error: type[BundleError]
) -> None:
    bundle = copy_golden(tmp_path)
    (bundle / name).unlink()
    os.mkfifo(bundle / name)

    with pytest.raises(error):
        Bundle(bundle)


def test_a_graph_that_is_none_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)
    data = b"no graph"
    (bundle / "embed.onnx").write_bytes(data)
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change_manifest(bundle, lambda fields: fields["files"].update({"embed.onnx": entry}))

    with pytest.raises(BundleError, match=r"cannot read .*embed\.onnx"):
        list(load(bundle).infer(random_samples(1)[0], 0))


def test_a_graph_in_another_s_place_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)
    change_manifest(bundle, lambda fields: fields["graphs"]["embed"].update(file="answer.onnx"))

    with pytest.raises(ManifestError, match="graph 'embed' has other inputs or outputs"):
        list(load(bundle).infer(random_samples(1)[0], 0))


def test_a_graph_that_fails_on_tensors_of_another_shape_is_an_error_with_its_name(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)
    change_manifest(bundle, lambda fields: fields["tensors"]["cls_token"].update(shape=[1, 1, 23]))

    with pytest.raises(EdgeFLError, match=r"graph 'embed' of .* failed: "):
        list(load(bundle).infer(random_samples(1)[0], 0))


Tamper = Callable[[dict[str, FloatArray]], dict[str, FloatArray]]


def with_first(value: float) -> Tamper:
    """Return a change of one number of one tensor."""

    def tamper(tensors: dict[str, FloatArray]) -> dict[str, FloatArray]:
        changed = np.array(tensors["head.norm.bias"])
        changed[3] = value
        return tensors | {"head.norm.bias": changed}

    return tamper


HOSTILE: dict[str, tuple[Tamper, type[EdgeFLError], str]] = {
    "NaN": (with_first(np.nan), AdapterValueError, "'head.norm.bias' has NaN or infinite"),
    "infinity": (with_first(np.inf), AdapterValueError, "'head.norm.bias' has NaN or infinite"),
    "another shape of the same size": (
        lambda tensors: tensors | {"accumulator.positions": tensors["accumulator.positions"].reshape(24, 5)},
        AdapterLayoutError,
        "accumulator.positions differ",
    ),
    "another dtype of the same size": (
        lambda tensors: tensors | {"head.norm.bias": tensors["head.norm.bias"].view(np.int32)},
        AdapterLayoutError,
        "dtypes differ",
    ),
    "half the precision": (
        lambda tensors: {name: array.astype(np.float16) for name, array in tensors.items()},
        AdapterLayoutError,
        "accumulator.client_token",
    ),
    "a tensor too few": (
        lambda tensors: {name: array for name, array in tensors.items() if name != "head.norm.bias"},
        AdapterLayoutError,
        "head.norm.bias",
    ),
    "a tensor too many": (
        lambda tensors: tensors | {"extra": np.zeros(1, np.float32)},
        AdapterLayoutError,
        " extra, ",
    ),
    "the same tensors in another order": (
        lambda tensors: dict(reversed(tensors.items())),
        AdapterLayoutError,
        "differ",
    ),
}


@pytest.mark.parametrize(("tamper", "error", "fault"), HOSTILE.values(), ids=HOSTILE.keys())
def test_an_adapter_that_does_not_fit_is_refused(
    tmp_path: Path, tamper: Tamper, error: type[EdgeFLError], fault: str
) -> None:
    path = tmp_path / "adapter.safetensors"
    tensors = tamper(dict(ADAPTER.tensors))
    # One tensor more needs a longer header.  The hash is that of the values as float32: only the layout is wrong.
    header_bytes = HEADER_BYTES + (64 if len(tensors) > len(ADAPTER.tensors) else 0)
    path.write_bytes(b"".join(encode_adapter(replace(ADAPTER, tensors=tensors), header_bytes)))

    with pytest.raises(error, match=fault):
        Bundle(GOLDEN).adapter(path)


def test_an_adapter_of_another_bundle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    replace(ADAPTER, bundle_id="f" * 64).save(path, HEADER_BYTES)

    with pytest.raises(AdapterLayoutError, match="belongs to bundle 'ffff"):
        Bundle(GOLDEN).adapter(path)


def test_an_adapter_whose_header_has_another_length_is_refused_because_its_tensors_moved(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    ADAPTER.save(path, HEADER_BYTES + 64)

    with pytest.raises(AdapterLayoutError, match="has other tensors"):
        Bundle(GOLDEN).adapter(path)


def test_an_adapter_whose_data_were_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    data = bytearray((GOLDEN / "adapter.safetensors").read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    with pytest.raises(HashError, match="does not have the data it was written with"):
        Bundle(GOLDEN).adapter(path)


def test_an_adapter_that_is_no_tensor_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    path.write_bytes((GOLDEN / "adapter.safetensors").read_bytes()[:-4])

    with pytest.raises(TensorFileError, match="cut short"):
        Bundle(GOLDEN).adapter(path)


@pytest.mark.parametrize("version", ["", "-1", "1.0", "٣", "1" * 11, "0x1"])
def test_an_adapter_without_a_version_that_counts_is_refused(tmp_path: Path, version: str) -> None:
    path = tmp_path / "adapter.safetensors"
    metadata = TensorFile(GOLDEN / "adapter.safetensors").metadata | {"version": version}
    path.write_bytes(b"".join(encode_tensors(ADAPTER.tensors, metadata, HEADER_BYTES)))

    with pytest.raises(AdapterLayoutError, match="expected a number of at most 10 digits"):
        Bundle(GOLDEN).adapter(path)


def test_a_tensor_with_too_many_axes_for_a_graph_is_refused(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)

    def confuse(fields: Fields) -> None:
        opening = next(call for call in fields["programs"]["infer/2"]["calls"] if call["graph"] == "open_history")
        opening["inputs"][0] = "samples"

    change_manifest(bundle, confuse)
    with pytest.raises(ManifestError, match=r"'open_history' is given 'samples' of shape \(1, 1, 16, 16\) as 'cls'"):
        list(load(bundle).infer(random_samples(1)[0], 2))
