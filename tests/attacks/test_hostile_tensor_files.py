"""One hostile safetensors file for each refusal: what breaks the format never reaches numpy."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from edgefl.core.tensors import TensorFile
from edgefl.errors import TensorFileError

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DATA = b"\0" * 8


def file_of(header: object, data: bytes = DATA) -> bytes:
    """Return a file with a header of our own, encoded unless it is text already."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def with_entry(data: bytes = DATA, **fields: object) -> bytes:
    return file_of({"a": F32 | fields}, data)


HOSTILE = {
    "no bytes at all": (b"", "too short"),
    "half a length": (b"\x10\0\0\0", "too short"),
    "a header longer than the file": (struct.pack("<Q", 100) + b"{}", "claims a header of 100 bytes"),
    "a header of all memory": (struct.pack("<Q", 2**64 - 1) + b"{}", "claims a header of"),
    "no header": (file_of(b""), "no JSON object"),
    "no JSON": (file_of(b"{'a'}"), "no JSON object"),
    "JSON that is no object": (file_of([1]), "no JSON object"),
    "bytes that are no text": (file_of(b'{"\xff": 1}'), "no JSON object"),
    "arrays nested without end": (file_of(b"[" * 100_000), "no JSON object"),
    "a number of endless digits": (file_of(b'{"a": ' + b"9" * 10_000 + b"}"), "no JSON object"),
    "a name twice": (file_of(b'{"a": %b, "a": %b}' % ((json.dumps(F32).encode(),) * 2)), "occurs twice"),
    "a field twice": (
        file_of(b'{"a": {"dtype": "F32", "dtype": "F64", "shape": [2], "data_offsets": [0, 8]}}'),
        "twice",
    ),
    "metadata that is no text": (file_of({"__metadata__": {"version": 1}, "a": F32}), "no.*text by name"),
    "an entry that is a number": (file_of({"a": 1}), "not described by dtype, shape and data_offsets"),
    "an entry as a list of pairs": (file_of({"a": list(F32.items())}), "not described"),
    "no dtype": (file_of({"a": {"shape": [2], "data_offsets": [0, 8]}}), "not described"),
    "an unknown dtype": (with_entry(dtype="F31"), "not described"),
    "three offsets": (with_entry(data_offsets=[0, 4, 8]), "not described"),
    "an unknown field": (with_entry(strides=[1]), "unknown field"),
    "a negative length": (with_entry(shape=[-2]), "not a natural one"),
    "a broken length": (with_entry(shape=[2.0]), "not a natural one"),
    "a length that is true": (with_entry(b"\0" * 4, shape=[True], data_offsets=[0, 4]), "not a natural one"),
    "a length that is text": (with_entry(shape="2"), "not a natural one"),
    "a negative offset": (with_entry(data_offsets=[-8, 0]), "not a natural one"),
    "a shape of another size": (with_entry(shape=[3]), "needs another size"),
    "offsets that run backwards": (with_entry(data_offsets=[8, 0]), "needs another size"),
    "a length beside zero that no array has": (with_entry(b"", shape=[0, 2**62], data_offsets=[0, 0]), "longer ones"),
    "more axes than an array has": (with_entry(shape=[1] * 40 + [2]), "more axes"),
    "a hole before the first tensor": (with_entry(b"\0" * 16, data_offsets=[8, 16]), "no holes, no overlaps"),
    "a hole between tensors": (file_of({"a": F32, "b": F32 | {"data_offsets": [16, 24]}}, b"\0" * 24), "no holes"),
    "tensors that overlap": (file_of({"a": F32, "b": F32 | {"data_offsets": [4, 12]}}, b"\0" * 12), "no overlaps"),
    "tensors that share their bytes": (file_of({"a": F32, "b": F32}), "no overlaps"),
    "data that were cut short": (file_of({"a": F32}, b"\0" * 7), "cut short or grew"),
    "data behind the last tensor": (file_of({"a": F32}, b"\0" * 9), "cut short or grew"),
}


@pytest.mark.parametrize(("data", "fault"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_that_breaks_the_format_is_refused(tmp_path: Path, data: bytes, fault: str) -> None:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(data)

    with pytest.raises(TensorFileError, match=fault) as refusal:
        TensorFile(path)

    assert str(path) in str(refusal.value)
    assert refusal.value.exit_code == 3


def test_the_honest_file_beside_them_is_read(tmp_path: Path) -> None:
    path = tmp_path / "honest.safetensors"
    path.write_bytes(file_of({"a": F32}))

    assert TensorFile(path)["a"].tolist() == [0.0, 0.0]
