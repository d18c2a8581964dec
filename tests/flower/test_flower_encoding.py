"""Objects are byte for byte those of flwr, in both directions (edgefl/fleet: objects, arrays, records, parcel)."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, Message
from flwr.app.error import Error
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, validate_object_content
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgefl.core.record_values import ConfigValue
from edgefl.fleet.arrays import decode_array, encode_array
from edgefl.fleet.content import Content, decode_content, encode_content
from edgefl.fleet.objects import ObjectStore, object_id
from edgefl.fleet.parcel import Parcel, pack_error, pack_reply
from tests.flower import golden_objects
from tests.flower.golden_objects import CONTENT, GOLDEN, INSTRUCTION, NOW

OBJECTS = {key: base64.b64decode(text) for key, text in json.loads(GOLDEN.read_text())["objects"].items()}
TEXTS = st.text(max_size=20)
SINT64 = st.integers(-(2**63), 2**63 - 1)
SCALARS = st.one_of(
    st.booleans(), SINT64, st.integers(2**63, 2**64 - 1), st.floats(allow_nan=False), TEXTS, st.binary()
)
LISTS = st.one_of(*(st.lists(s, min_size=1) for s in (st.booleans(), SINT64, st.floats(allow_nan=False), TEXTS)))
ARRAYS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=4, max_side=5))


def assert_same(left: Content, right: Content) -> None:
    assert list(left.arrays) == list(right.arrays)
    for name, array in left.arrays.items():
        np.testing.assert_array_equal(array, right.arrays[name], strict=True)
    # 1 == 1.0 == True in Python, but not on the wire.
    assert repr(left.configs) == repr(right.configs)
    assert repr(left.metrics) == repr(right.metrics)


def test_the_golden_file_shared_with_kotlin_is_what_flwr_encodes() -> None:
    assert json.loads(GOLDEN.read_text()) == golden_objects.as_json()


def test_a_reply_is_encoded_as_flwr_encodes_it() -> None:
    theirs = golden_objects.flower_message(golden_objects.flower_content())
    ours = pack_reply(INSTRUCTION, CONTENT, NOW)
    assert ours.objects == golden_objects.encoded(theirs)
    assert ours.metadata.message_id == theirs.object_id
    assert ours.tree.SerializeToString() == get_object_tree(theirs).SerializeToString()
    assert ours.object_ids() == list(get_all_nested_objects(theirs))
    for content in ours.objects.values():
        validate_object_content(content)


def test_an_error_reply_is_encoded_as_flwr_encodes_it() -> None:
    theirs = golden_objects.flower_message(None, Error(2, "no memory"))
    ours = pack_error(INSTRUCTION, "no memory", NOW)
    assert ours.objects == golden_objects.encoded(theirs)
    assert ours.message.HasField("error")
    assert not ours.message.HasField("content")


def test_flwrs_objects_are_decoded_to_the_values_they_were_made_of() -> None:
    message_id = json.loads(GOLDEN.read_text())["reply"]["message_id"]
    parcel = Parcel(
        message=pack_reply(INSTRUCTION, CONTENT, NOW).message,
        tree=pack_reply(INSTRUCTION, CONTENT, NOW).tree,
        objects=OBJECTS,
    )
    assert parcel.metadata.message_id == message_id
    assert_same(parcel.unpack(), CONTENT)


def test_flwr_inflates_our_objects_to_the_values_they_were_made_of() -> None:
    parcel = pack_reply(INSTRUCTION, CONTENT, NOW)
    message = inflate_object_from_contents(parcel.metadata.message_id, dict(parcel.objects))
    assert isinstance(message, Message)
    for name, array in CONTENT.arrays.items():
        np.testing.assert_array_equal(message.content.array_records["arrays"][name].numpy(), array, strict=True)
    assert dict(message.content.config_records["reply"]) == CONTENT.configs["reply"]
    assert dict(message.content.metric_records["metrics"]) == CONTENT.metrics["metrics"]


def test_a_large_array_is_cut_into_chunks_of_1_mib_and_equal_chunks_are_sent_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flwr.app.message.array.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", 1024 * 1024)
    # 4 MiB and the header: five chunks, of which the second to the fourth are equal.
    array = np.zeros((1024, 1024), np.float32)
    store = ObjectStore()
    key = encode_array(store, array)
    assert store.contents == {k: v.deflate() for k, v in get_all_nested_objects(Array(array)).items()}
    assert len(store.contents) == 4
    assert max(map(len, store.contents.values())) == 1024 * 1024 + len(b"ArrayChunk  1048576\0")
    np.testing.assert_array_equal(decode_array(store, key, array.nbytes), array)


def test_an_array_in_fortran_order_is_understood() -> None:
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    theirs = Array(array)
    decoded = decode_array(
        ObjectStore({k: v.deflate() for k, v in get_all_nested_objects(theirs).items()}), theirs.object_id, 24
    )
    np.testing.assert_array_equal(decoded, array, strict=True)
    assert decoded.flags.c_contiguous
    assert not decoded.flags.writeable


def test_received_arrays_cannot_be_written_into() -> None:
    store = ObjectStore()
    decoded = decode_content(store, encode_content(store, CONTENT))
    with pytest.raises(ValueError, match="read-only"):
        decoded.arrays["head.weight"][0, 0] = 1


@given(
    arrays=st.dictionaries(TEXTS, ARRAYS, max_size=4),
    config=st.dictionaries(TEXTS, st.one_of(SCALARS, LISTS), max_size=6),
    metrics=st.dictionaries(TEXTS, st.one_of(SINT64, st.floats(allow_nan=False)), max_size=4),
)
@settings(max_examples=60)
def test_what_goes_in_comes_out_and_the_same_content_has_the_same_id(
    arrays: dict[str, NDArray[np.float32]], config: dict[str, ConfigValue], metrics: dict[str, float]
) -> None:
    content = Content(arrays=arrays, configs={"config": config}, metrics={"metrics": metrics})
    store = ObjectStore()
    key = encode_content(store, content)
    assert_same(decode_content(store, key), content)
    again = ObjectStore()
    assert encode_content(again, content) == key
    assert again.contents == store.contents
    assert all(object_id(body) == name for name, body in store.contents.items())


@pytest.mark.parametrize("value", [None, {"a": 1}, [1, "a"], [[1]], np.float32(1)], ids=repr)
def test_a_value_that_flower_cannot_carry_is_refused_by_name(value: Any) -> None:
    with pytest.raises(TypeError, match="'learning_rate'"):
        encode_content(ObjectStore(), Content(configs={"config": {"learning_rate": value}}))


def test_a_metric_that_is_no_number_is_refused_by_name() -> None:
    small: Any = "small"
    with pytest.raises(TypeError, match="'loss'"):
        encode_content(ObjectStore(), Content(metrics={"metrics": {"loss": small}}))


def test_an_integer_of_more_than_64_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="out of range"):
        encode_content(ObjectStore(), Content(configs={"config": {"seed": 2**64}}))
