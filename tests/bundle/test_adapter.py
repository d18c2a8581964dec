"""The one file of a bundle that rounds replace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgefl.bundle import Adapter, Bundle
from edgefl.bundle.adapter import encode_adapter
from edgefl.core.tensors import TensorFile
from edgefl.errors import TensorFileError
from tests.golden_bundle import GOLDEN, copy_golden


def next_version(bundle: Bundle) -> Adapter:
    """Return the bundle's adapter with 1 added to every value."""
    tensors = {name: array + np.float32(1) for name, array in bundle.adapter().tensors.items()}
    return Adapter(bundle_id=bundle.manifest.bundle_id, version=7, round=31, tensors=tensors)


def test_an_exported_adapter_is_version_0_of_round_0_in_the_layout_s_order() -> None:
    bundle = Bundle(GOLDEN)
    adapter = bundle.adapter()

    assert (adapter.bundle_id, adapter.version, adapter.round) == (bundle.manifest.bundle_id, 0, 0)
    assert list(adapter.tensors) == bundle.manifest.adapter.tensors
    assert adapter.tensors["accumulator.positions"].shape == (5, 24)
    assert {array.dtype for array in adapter.tensors.values()} == {np.dtype(np.float32)}


def test_a_saved_adapter_is_read_back_with_its_version_and_round(tmp_path: Path) -> None:
    bundle = Bundle(copy_golden(tmp_path))
    new = next_version(bundle)

    new.save(bundle.path("adapter.safetensors"), bundle.manifest.adapter.header_bytes)
    read = Bundle(bundle.folder).adapter()

    assert (read.version, read.round) == (7, 31)
    assert all(np.array_equal(read.tensors[name], array) for name, array in new.tensors.items())


def test_the_same_adapter_gives_the_same_bytes() -> None:
    bundle = Bundle(GOLDEN)

    again = encode_adapter(bundle.adapter(), bundle.manifest.adapter.header_bytes)

    assert b"".join(again) == (GOLDEN / "adapter.safetensors").read_bytes()


def test_tensors_stay_where_the_graphs_look_for_them_whatever_the_version(tmp_path: Path) -> None:
    bundle = Bundle(GOLDEN)
    path = tmp_path / "adapter.safetensors"
    latest = Adapter(
        bundle_id=bundle.manifest.bundle_id, version=10**10 - 1, round=10**10 - 1, tensors=bundle.adapter().tensors
    )

    latest.save(path, bundle.manifest.adapter.header_bytes)

    assert TensorFile(path).entries == TensorFile(GOLDEN / "adapter.safetensors").entries
    assert bundle.adapter(path).version == 10**10 - 1


def test_a_layout_without_a_header_length_gets_one_with_room_for_any_version() -> None:
    # Names of any length up to the alignment, since padding alone may leave the room by chance.
    for length in range(1, 65):
        first = Adapter(bundle_id="b", version=0, round=0, tensors={"w" * length: np.zeros(1, np.float32)})
        header_bytes = len(encode_adapter(first)[1])

        latest = encode_adapter(replace(first, version=10**10 - 1, round=10**10 - 1), header_bytes)

        assert len(latest[1]) == header_bytes


def test_whoever_has_the_old_adapter_mapped_keeps_its_values(tmp_path: Path) -> None:
    bundle = Bundle(copy_golden(tmp_path))
    mapped = bundle.adapter().tensors["head.norm.weight"]
    before = np.array(mapped)

    next_version(bundle).save(bundle.path("adapter.safetensors"), bundle.manifest.adapter.header_bytes)

    assert np.array_equal(mapped, before)
    assert np.array_equal(bundle.adapter().tensors["head.norm.weight"], before + 1)


def test_a_mapped_adapter_cannot_be_written_into() -> None:
    with pytest.raises(ValueError, match="read-only"):
        Bundle(GOLDEN).adapter().tensors["head.norm.weight"][0] = 1.0


def test_an_adapter_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(TensorFileError):
        Bundle(GOLDEN).adapter(tmp_path / "none.safetensors")
