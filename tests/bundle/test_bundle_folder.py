"""Opening a bundle's folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from edgefl.bundle import Bundle
from edgefl.core.tensors import TensorFile
from edgefl.errors import HashError, UnknownProgramError
from tests.golden_bundle import GOLDEN, copy_golden


def test_every_file_but_manifest_and_adapter_has_its_size_and_hash_in_the_manifest() -> None:
    files = Bundle(GOLDEN).manifest.files

    assert {name: (file.size, file.sha256) for name, file in files.items()} == {
        path.name: (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in GOLDEN.iterdir()
        if path.name not in {"manifest.json", "adapter.safetensors"}
    }


def test_a_frozen_tensor_is_a_view_of_its_file_in_the_stored_layout() -> None:
    bundle = Bundle(GOLDEN)
    expected = TensorFile(GOLDEN / "backbone.safetensors")["blocks.1.mlp.fc2.weight"]

    array = bundle.frozen("blocks.1.mlp.fc2.weight")

    assert array.shape == (48, 24)  # (inputs, outputs): the FFN's hidden size comes first
    assert np.array_equal(array, expected)
    assert not array.flags.writeable
    assert not array.flags.owndata


def test_rows_of_a_frozen_tensor_share_its_memory() -> None:
    bundle = Bundle(GOLDEN)
    whole = bundle.frozen("blocks.0.mlp.fc1.weight")

    rows = bundle.frozen("blocks.0.mlp.fc1.weight[2:5]")

    assert np.array_equal(rows, whole[2:5])
    assert np.shares_memory(rows, whole)


def test_an_unknown_program_is_answered_with_those_there_are() -> None:
    with pytest.raises(UnknownProgramError, match=r"no program 'infer/12' .* it has preprocess, infer/0, infer/1"):
        Bundle(GOLDEN).program("infer/12")


def test_a_bundle_behind_a_link_is_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(GOLDEN)

    assert Bundle(tmp_path / "link").folder == GOLDEN.resolve()


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)
    (bundle / "answer.onnx").rename(bundle / "renamed.onnx")
    (bundle / "answer.onnx").symlink_to("renamed.onnx")

    assert Bundle(bundle).path("answer.onnx").name == "renamed.onnx"


def test_without_verification_sizes_are_still_checked(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)
    data = bytearray((bundle / "block.onnx").read_bytes())
    data[100] ^= 1
    (bundle / "block.onnx").write_bytes(data)

    Bundle(bundle, verify=False)
    with pytest.raises(HashError, match="sha256 differs"):
        Bundle(bundle)
    os.truncate(bundle / "block.onnx", 10)
    with pytest.raises(HashError, match=f"10 bytes, expected {len(data)}"):
        Bundle(bundle, verify=False)


def test_frozen_tensors_read_the_same_after_their_pages_are_released() -> None:
    bundle = Bundle(GOLDEN)
    view = bundle.frozen("blocks.1.mlp.fc1.weight")
    before = view.copy()

    bundle.release()

    assert np.array_equal(view, before)
    assert np.array_equal(bundle.frozen("blocks.1.mlp.fc1.weight"), before)
