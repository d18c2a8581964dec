"""safetensors files: the bytes, where tensors lie, and that reading them copies nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.core.tensors import ALIGNMENT, TensorFile, aligned_order, encode_tensors
from edgefl.errors import TensorFileError

# {"a": [1.0, 2.0] in float32, "b": [[3]] in int64}, metadata {"k": "v"}.  The header text has 127 characters;
# 8 + 127 = 135 is padded to the next multiple of 64, 192, so the header is 184 = 0xb8 bytes long.
HEADER = (
    b'{"__metadata__":{"k":"v"},'
    b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    b'"b":{"dtype":"I64","shape":[1,1],"data_offsets":[8,16]}}'
)
GOLDEN_BYTES = (
    b"\xb8\x00\x00\x00\x00\x00\x00\x00"
    + HEADER
    + b" " * (184 - len(HEADER))
    + b"\x00\x00\x80\x3f\x00\x00\x00\x40"
    + b"\x03\x00\x00\x00\x00\x00\x00\x00"
)
GOLDEN_TENSORS: dict[str, np.ndarray[Any, Any]] = {"a": np.array([1, 2], np.float32), "b": np.array([[3]], np.int64)}


def written(folder: Path, tensors: dict[str, np.ndarray[Any, Any]], **options: Any) -> Path:
    path = folder / "t.safetensors"
    path.write_bytes(b"".join(encode_tensors(tensors, **options)))
    return path


def test_a_file_has_exactly_these_bytes() -> None:
    assert b"".join(encode_tensors(GOLDEN_TENSORS, {"k": "v"})) == GOLDEN_BYTES


def test_these_bytes_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "golden.safetensors"
    path.write_bytes(GOLDEN_BYTES)

    file = TensorFile(path)

    assert file.metadata == {"k": "v"}
    assert file.header_bytes == 184
    assert {name: (entry.offset, entry.num_bytes) for name, entry in file.entries.items()} == {
        "a": (192, 8),
        "b": (200, 8),
    }
    assert file["a"].tolist() == [1.0, 2.0]
    assert file["b"].tolist() == [[3]]
    assert bytes(file.data()) == GOLDEN_BYTES[192:]


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i8", "i4", "i1", "u1", "?"])
def test_every_supported_dtype_survives(tmp_path: Path, dtype: str) -> None:
    array = np.array([[0, 1, 1], [1, 0, 1]], dtype)

    read = TensorFile(written(tmp_path, {"x": array}))["x"]

    assert read.dtype == array.dtype
    assert np.array_equal(read, array)


def test_big_endian_and_strided_arrays_are_written_as_what_they_mean(tmp_path: Path) -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3).T

    assert TensorFile(written(tmp_path, {"x": array}))["x"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_scalars_and_empty_tensors_keep_their_shape(tmp_path: Path) -> None:
    file = TensorFile(written(tmp_path, {"none": np.zeros((0, 3), np.float32), "one": np.array(5, np.int64)}))

    assert file["none"].shape == (0, 3)
    assert file["one"].shape == ()
    assert file["one"] == 5


@given(
    st.dictionaries(st.text(min_size=1, max_size=8).filter("__metadata__".__ne__), st.integers(0, 40), max_size=5),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
)
def test_any_names_sizes_and_metadata_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, sizes: dict[str, int], metadata: dict[str, str]
) -> None:
    tensors = {name: np.arange(size, dtype=np.uint8) for name, size in sizes.items()}

    file = TensorFile(written(tmp_path_factory.mktemp("any"), tensors, metadata=metadata))

    assert file.metadata == metadata
    assert {name: array.tolist() for name, array in file.arrays().items()} == {
        name: list(range(size)) for name, size in sizes.items()
    }
    assert (8 + file.header_bytes) % ALIGNMENT == 0


def test_arrays_share_the_pages_of_the_file_and_cannot_be_written(tmp_path: Path) -> None:
    path = written(tmp_path, GOLDEN_TENSORS)
    array = TensorFile(path)["a"]

    with path.open("r+b") as file:
        file.seek(-16, 2)
        file.write(np.array([9], np.float32).tobytes())

    assert array[0] == 9.0
    assert not array.flags.writeable


def test_a_reserved_header_is_filled_up_to_its_length(tmp_path: Path) -> None:
    assert TensorFile(written(tmp_path, GOLDEN_TENSORS, header_bytes=1016)).header_bytes == 1016


def test_a_header_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="only 64 are reserved"):
        encode_tensors(GOLDEN_TENSORS, header_bytes=64)


def test_a_dtype_that_devices_do_not_have_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match="'x' has dtype complex128"):
        encode_tensors({"x": np.zeros(1, np.complex128)})


def test_tensors_of_whole_lines_come_first_and_start_at_multiples_of_64(tmp_path: Path) -> None:
    tensors = {name: np.zeros(size, np.uint8) for name, size in {"odd": 100, "a": 64, "b": 128, "last": 1}.items()}
    order = aligned_order({name: array.nbytes for name, array in tensors.items()})

    file = TensorFile(written(tmp_path, {name: tensors[name] for name in order}))

    assert order == ["a", "b", "odd", "last"]
    assert [file.entries[name].offset % 64 for name in ("a", "b", "odd")] == [0, 0, 0]


def test_an_unknown_name_is_answered_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(TensorFileError, match="no tensor 'c'; it has a, b"):
        TensorFile(written(tmp_path, GOLDEN_TENSORS))["c"]


def test_a_file_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(TensorFileError, match=r"none\.safetensors is no file: No such file"):
        TensorFile(tmp_path / "none.safetensors")
