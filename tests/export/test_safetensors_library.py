"""Our safetensors files and the library's are the same format: each reads what the other writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, load_file, save_file

from edgefl.core.tensors import TensorFile, encode_tensors
from edgefl.errors import TensorFileError
from tests.attacks.test_hostile_tensor_files import HOSTILE
from tests.golden_bundle import GOLDEN

DTYPES = ["float32", "float64", "float16", "int64", "int32", "int8", "uint8", "bool"]
# The library lets these pass: the last of two names counts, unknown fields do not, and shapes need not fit an array.
LENIENT = {
    "a name twice",
    "a field twice",
    "an unknown field",
    "a length beside zero that no array has",
    "more axes than an array has",
}

arrays = st.builds(
    lambda dtype, shape: np.arange(int(np.prod(shape))).reshape(shape).astype(dtype),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
)
tensors_by_name = st.dictionaries(st.text(min_size=1, max_size=6).filter("__metadata__".__ne__), arrays, max_size=4)


def assert_same(found: dict[str, np.ndarray[Any, Any]], expected: dict[str, np.ndarray[Any, Any]]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert np.array_equal(found[name], array)


@given(tensors_by_name)
def test_the_library_reads_what_we_write(tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    assert_same(load(b"".join(encode_tensors(tensors, {"k": "v"}))), tensors)


@given(tensors_by_name)
def test_we_read_what_the_library_writes(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, np.ndarray[Any, Any]]
) -> None:
    path = tmp_path_factory.mktemp("library") / "t.safetensors"
    save_file(tensors, path, {"k": "v"})

    file = TensorFile(path)

    assert file.metadata == {"k": "v"}
    assert_same(file.arrays(), tensors)


@pytest.mark.parametrize("name", ["backbone.safetensors", "adapter.safetensors"])
def test_the_library_reads_a_bundle_s_weights(name: str) -> None:
    assert_same(load_file(GOLDEN / name), TensorFile(GOLDEN / name).arrays())


def test_the_library_reads_an_adapter_s_metadata() -> None:
    with safe_open(GOLDEN / "adapter.safetensors", framework="numpy") as file:
        assert file.metadata() == TensorFile(GOLDEN / "adapter.safetensors").metadata


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in LENIENT])
def test_the_library_refuses_what_we_refuse(tmp_path: Path, name: str) -> None:
    data, _ = HOSTILE[name]
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(data)

    with pytest.raises(TensorFileError):
        TensorFile(path)
    with pytest.raises(SafetensorError):
        load(data)
