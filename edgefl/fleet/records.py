"""Scalars by name as the bodies of Flower's ConfigRecord and MetricRecord objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError

from edgefl.core.record_values import ConfigValue, MetricValue
from edgefl.fleet import fleet_pb2
from edgefl.fleet.objects import ObjectError

__all__ = ["decode_config", "decode_metrics", "encode_config", "encode_metrics"]

# bool comes first because every bool is an int; so an empty list is one of bools, as in flwr.
_FIELDS: dict[type, str] = {bool: "bool", int: "sint64", float: "double", str: "string", bytes: "bytes"}
_LIST_FIELDS = {"bool": "bool_list", "sint64": "sint_list", "double": "double_list", "string": "string_list"} | {
    "bytes": "bytes_list",
    "uint64": "uint_list",
}
_LARGEST_SINT64 = 2**63 - 1


def encode_config(record: Mapping[str, ConfigValue]) -> bytes:
    """Return the body of a ConfigRecord, in the record's order.

    Raises:
        TypeError: If a value is of a type that a ConfigRecord cannot hold, or a list of mixed types.
        ValueError: If an integer does not fit in 64 bits.
    """
    body = fleet_pb2.ConfigRecord()
    for key, value in record.items():
        item = body.items.add(key=key)
        if isinstance(value, list):
            values = getattr(item.value, _LIST_FIELDS[_field(key, value)])
            values.SetInParent()
            values.vals.extend(value)
        else:
            setattr(item.value, _field(key, [value]), value)
    return body.SerializeToString()


def encode_metrics(record: Mapping[str, MetricValue]) -> bytes:
    """Return the body of a MetricRecord, in the record's order.

    Raises:
        TypeError: If a value is no number.
        ValueError: If an integer does not fit in 64 bits.
    """
    body = fleet_pb2.MetricRecord()
    for key, value in record.items():
        field = _field(key, [value])
        if field not in {"sint64", "uint64", "double"}:
            raise TypeError(f"metric {key!r} is {value!r}; expected an int or a float")
        setattr(body.items.add(key=key).value, field, value)
    return body.SerializeToString()


def decode_config(body: memoryview) -> dict[str, ConfigValue]:
    """Read the body of a ConfigRecord.

    Raises:
        ObjectError: If it is none, names a key twice or has a key without a value.
    """
    try:
        items = fleet_pb2.ConfigRecord.FromString(bytes(body)).items
    except DecodeError as error:
        raise ObjectError("a ConfigRecord that is no protobuf") from error
    record: dict[str, ConfigValue] = {}
    for item in items:
        field = _checked_field(item.key, item.value.WhichOneof("value"), record)
        value = getattr(item.value, field)
        record[item.key] = list(value.vals) if field.endswith("_list") else value
    return record


def decode_metrics(body: memoryview) -> dict[str, MetricValue]:
    """Read the body of a MetricRecord of numbers.

    Raises:
        ObjectError: If it is none, names a key twice or has a key without a number.
    """
    try:
        items = fleet_pb2.MetricRecord.FromString(bytes(body)).items
    except DecodeError as error:
        raise ObjectError("a MetricRecord that is no protobuf") from error
    record: dict[str, MetricValue] = {}
    for item in items:
        record[item.key] = getattr(item.value, _checked_field(item.key, item.value.WhichOneof("value"), record))
    return record


def _field(key: str, values: Sequence[object]) -> str:
    """Return the field that holds values of this type."""
    for kind, field in _FIELDS.items():
        if all(isinstance(value, kind) for value in values):
            large = kind is int and any(isinstance(value, int) and value > _LARGEST_SINT64 for value in values)
            return "uint64" if large else field
    raise TypeError(f"value {key!r} is {values!r}; expected bool, int, float, str, bytes or a list of one of them")


def _checked_field(key: str, field: str | None, record: Mapping[str, object]) -> str:
    if field is None:
        raise ObjectError(f"a record has the key {key[:100]!r} without a value edgefl knows")
    if key in record:
        raise ObjectError(f"a record has the key {key[:100]!r} twice")
    return field
