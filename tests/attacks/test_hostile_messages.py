"""Messages that a hostile or broken server could send: each is refused in words (edgefl/fleet)."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from edgefl.fleet import fleet_pb2
from edgefl.fleet.arrays import decode_array, encode_array, npy_header
from edgefl.fleet.content import Content, decode_content, encode_content
from edgefl.fleet.objects import ObjectError, ObjectStore, object_id, tree_ids
from edgefl.fleet.parcel import Parcel
from edgefl.fleet.records import decode_config, decode_metrics

CHILD = "ab" * 32
VALUES = np.arange(6, dtype="<f4").tobytes()
FIELDS = {"dtype": "float32", "shape": [2, 3], "stype": "numpy.ndarray", "arraychunk_ids": [0]}


def store_array(data: bytes, **fields: object) -> tuple[ObjectStore, str]:
    """Return an Array of one chunk whose description may lie."""
    store = ObjectStore()
    chunk = store.add("ArrayChunk", (), data)
    return store, store.add("Array", (chunk,), json.dumps(FIELDS | fields).encode())


def npy(
    descr: str = "'<f4'", order: str = "False", shape: str = "(2, 3)", magic: bytes = b"\x93NUMPY\x01\x00"
) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return magic + len(text).to_bytes(2, "little") + text + VALUES


def test_the_honest_array_that_the_others_differ_from_is_accepted() -> None:
    store, key = store_array(npy())
    np.testing.assert_array_equal(decode_array(store, key, 24), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    ("data", "fields", "message"),
    [
        (npy()[:-1], {}, "has 23 bytes; its shape"),
        (npy() + b"\0", {}, "has 25 bytes; its shape"),
        (npy() + bytes(70_000), {}, "more bytes than its shape"),
        (npy(), {"shape": [3, 2]}, "expected float32 of shape"),
        (npy(shape="(3, 2)"), {}, "expected float32 of shape"),
        (npy(descr="'|O'"), {}, "expected float32 of shape"),
        (npy(descr="'>f4'"), {}, "expected float32 of shape"),
        (npy(descr="__import__('os').abort()"), {}, "expected float32 of shape"),
        (npy(shape="(" * 60_000), {}, "expected float32 of shape"),
        (npy(order="0"), {}, "expected float32 of shape"),
        (npy(magic=b"\x93NUMPY\x03\x00"), {}, "no .npy file of version 1"),
        (b"\x93NUMPY\x01\x00\xff", {}, "no .npy file of version 1"),
        (b"\x93NUMPY\x01\x00\xff\xff{'descr'", {}, "expected float32 of shape"),
        (b"PK\x03\x04" + VALUES, {}, "no .npy file of version 1"),
        (npy(), {"dtype": "object"}, "not described as a float32 array"),
        (npy(), {"stype": "pickle"}, "not described as a float32 array"),
        (npy(), {"shape": [2, -3]}, "not described as a float32 array"),
        (npy(), {"shape": [0, 3]}, "not described as a float32 array"),
        (npy(), {"shape": [2.0, 3]}, "not described as a float32 array"),
        (npy(), {"shape": [2**31]}, "not described as a float32 array"),
        (npy(), {"shape": [1] * 33}, "not described as a float32 array"),
        (npy(), {"shape": [2**30, 2**30]}, "is too large"),
        (npy(), {"arraychunk_ids": [1]}, "uses a chunk it does not have"),
        (npy(), {"arraychunk_ids": [-1]}, "not described as a float32 array"),
        (npy(), {"arraychunk_ids": []}, "has a chunk it does not use"),
        (npy(), {"arraychunk_ids": [0] * 100_000}, "more bytes than its shape"),
        (npy(), {"extra": 1}, "not described as a float32 array"),
    ],
)
def test_an_array_that_contradicts_itself_is_refused(data: bytes, fields: dict[str, object], message: str) -> None:
    store, key = store_array(data, **fields)
    with pytest.raises(ObjectError, match=message):
        decode_array(store, key, 2**20)


@pytest.mark.parametrize("body", [b"", b"[", b"[" * 200_000, b"\xff", b'{"dtype": "float32"}', b"null"])
def test_an_array_without_a_description_is_refused(body: bytes) -> None:
    store = ObjectStore()
    key = store.add("Array", (), body)
    with pytest.raises(ObjectError, match="not described as a float32 array"):
        decode_array(store, key, 2**20)


def test_one_array_under_many_ids_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefl.fleet.content.MAX_MESSAGE_BYTES", 100)
    store = ObjectStore()
    chunk = store.add("ArrayChunk", (), npy())
    # 24 bytes each: the spaces give five ids to one array.
    bodies = [json.dumps(FIELDS, indent=indent).encode() for indent in range(5)]
    arrays = [store.add("Array", (chunk,), body) for body in bodies]
    record = store.add("ArrayRecord", arrays, json.dumps(dict(zip("abcde", arrays, strict=True))).encode())
    root = store.add("RecordDict", (record,), json.dumps({"arrays": record}).encode())
    with pytest.raises(ObjectError, match="is too large: 4 bytes are left"):
        decode_content(store, root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"RecordDict  2\0{}", None),
        (b"RecordDict  3\0{}", "claims 3 bytes and has 2"),
        (b"RecordDict  1\0{}", "claims 1 bytes and has 2"),
        (b"RecordDict  02\0{}", "no head"),
        (b"RecordDict  -1\0{}", "no head"),
        (b"RecordDict  2{}", "no head"),
        (b"", "no head"),
        (b"RecordDict 2\0{}", "no head"),
        (b"RecordDict ../../etc/passwd 2\0{}", "no head"),
        (b"RecordDict " + CHILD.upper().encode() + b" 2\0{}", "no head"),
        (f"RecordDict {CHILD},{CHILD} 2\0{{}}".encode(), "names a child twice"),
        (b"Pickle  2\0{}", "is of type Pickle; expected RecordDict"),
        (b"Array  2\0{}", "is of type Array; expected RecordDict"),
    ],
)
def test_an_object_with_a_false_head_is_refused(content: bytes, message: str | None) -> None:
    store = ObjectStore()
    store.contents[key := object_id(content)] = content
    if message is None:
        assert decode_content(store, key) == Content()
        return
    with pytest.raises(ObjectError, match=message):
        decode_content(store, key)


def test_an_object_that_is_not_what_its_id_says_is_refused() -> None:
    store = ObjectStore()
    key = encode_array(store, np.zeros(3, np.float32))
    chunk = next(k for k, v in store.contents.items() if v.startswith(b"ArrayChunk"))
    store.contents[chunk] = store.contents[chunk][:-1] + b"\x01"
    with pytest.raises(ObjectError, match="another sha256"):
        decode_array(store, key, 12)


def test_a_chunk_that_has_children_is_refused() -> None:
    store = ObjectStore()
    leaf = store.add("ArrayChunk", (), b"")
    chunk = store.add("ArrayChunk", (leaf,), npy())
    key = store.add("Array", (chunk,), json.dumps(FIELDS).encode())
    with pytest.raises(ObjectError, match="a chunk with children"):
        decode_array(store, key, 24)


def test_a_missing_child_is_refused() -> None:
    store = ObjectStore()
    key = encode_array(store, np.zeros(3, np.float32))
    del store.contents[next(k for k, v in store.contents.items() if v.startswith(b"ArrayChunk"))]
    with pytest.raises(ObjectError, match="was not sent"):
        decode_array(store, key, 12)


@pytest.mark.parametrize(
    "body",
    [b'{"config": "%s"}' % (b"cd" * 32), b"{}", b'{"config": ["x"]}', b'{"config": null}', b"[]", b'{"a":' * 100_000],
)
def test_a_record_whose_body_and_head_disagree_is_refused(body: bytes) -> None:
    store = ObjectStore()
    child = store.add("ConfigRecord", (), b"")
    key = store.add("RecordDict", (child,), body)
    with pytest.raises(ObjectError, match="a record whose body"):
        decode_content(store, key)


def test_a_record_in_the_place_of_an_array_is_refused() -> None:
    store = ObjectStore()
    config = store.add("ConfigRecord", (), b"")
    record = store.add("ArrayRecord", (config,), json.dumps({"weight": config}).encode())
    key = store.add("RecordDict", (record,), json.dumps({"arrays": record}).encode())
    with pytest.raises(ObjectError, match="is of type ConfigRecord; expected Array"):
        decode_content(store, key)


def config_body(*items: tuple[str, fleet_pb2.ConfigRecordValue]) -> bytes:
    record = fleet_pb2.ConfigRecord()
    for key, value in items:
        record.items.add(key=key, value=value)
    return record.SerializeToString()


ONE = fleet_pb2.ConfigRecordValue(sint64=1)
TWICE = config_body(("seed", ONE), ("seed", ONE))
EMPTY = config_body(("seed", fleet_pb2.ConfigRecordValue()))
TEXT = config_body(("loss", fleet_pb2.ConfigRecordValue(string="small")))


@pytest.mark.parametrize(
    ("decode", "body", "message"),
    [
        (decode_config, b"\xff", "no protobuf"),
        (decode_config, b"\x0a\x02\x0a\xff", "no protobuf"),
        (decode_config, TWICE, "'seed' twice"),
        (decode_config, EMPTY, "'seed' without a value"),
        (decode_metrics, b"\xff", "no protobuf"),
        (decode_metrics, TWICE, "'seed' twice"),
        (decode_metrics, TEXT, "'loss' without a value"),
    ],
)
def test_scalars_that_are_ambiguous_or_damaged_are_refused(
    decode: Callable[[memoryview], object], body: bytes, message: str
) -> None:
    with pytest.raises(ObjectError, match=message):
        decode(memoryview(body))


def nested(depth: int) -> fleet_pb2.ObjectTree:
    tree = fleet_pb2.ObjectTree(object_id=CHILD)
    for _ in range(depth - 1):
        tree = fleet_pb2.ObjectTree(object_id=CHILD, children=[tree])
    return tree


def test_a_tree_that_contains_itself_is_pulled_once_and_a_deeper_one_is_refused() -> None:
    assert tree_ids(nested(5)) == [CHILD]
    with pytest.raises(ObjectError, match="deeper than 5"):
        tree_ids(nested(6))


@pytest.mark.parametrize("key", ["", "../../etc/passwd", CHILD + "0", CHILD.upper(), CHILD[:-1] + "\n"])
def test_a_tree_with_a_false_id_is_refused(key: str) -> None:
    with pytest.raises(ObjectError, match="is no object id"):
        tree_ids(fleet_pb2.ObjectTree(object_id=key))


def test_a_tree_of_too_many_objects_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefl.fleet.objects._MAX_OBJECTS", 3)
    children = [fleet_pb2.ObjectTree(object_id=f"{n:064x}") for n in range(3)]
    with pytest.raises(ObjectError, match="more than 3 objects"):
        tree_ids(fleet_pb2.ObjectTree(object_id=CHILD, children=children))


def test_a_message_with_the_tree_of_another_is_refused() -> None:
    message = fleet_pb2.Message(metadata=fleet_pb2.Metadata(message_id="cd" * 32))
    with pytest.raises(ObjectError, match="came with the tree of"):
        Parcel(message=message, tree=fleet_pb2.ObjectTree(object_id=CHILD)).object_ids()


def test_a_message_without_content_is_refused() -> None:
    store = ObjectStore()
    key = store.add("Message", (), b"")
    message = fleet_pb2.Message(metadata=fleet_pb2.Metadata(message_id=key))
    with pytest.raises(ObjectError, match="has 0 contents; expected 1"):
        Parcel(message=message, tree=store.tree(key), objects=store.contents).unpack()


def test_the_header_edgefl_writes_is_one_it_reads() -> None:
    store, key = store_array(npy_header((2, 3)) + VALUES)
    assert decode_array(store, key, 24).shape == (2, 3)


def test_content_that_arrives_under_other_names_is_ignored() -> None:
    store = ObjectStore()
    root = encode_content(store, Content(arrays={"w": np.ones(1, np.float32)}))
    renamed = store.contents[root].replace(b'{"arrays"', b'{"weight"')
    store.contents[key := object_id(renamed)] = renamed
    assert dict(decode_content(store, key).arrays) == {}
