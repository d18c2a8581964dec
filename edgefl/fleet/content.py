"""The content of a message as edgefl sees it: arrays, configurations and metrics by name (docs/protocol.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgefl.core.record_values import ConfigValue, MetricValue
from edgefl.fleet.arrays import decode_array, encode_array
from edgefl.fleet.objects import MAX_MESSAGE_BYTES, ObjectError, ObjectStore, StoredObject
from edgefl.fleet.records import (
    decode_config,
    decode_metrics,
    encode_config,
    encode_metrics,
)

__all__ = ["ARRAYS", "Content", "content_digest", "decode_content", "encode_content"]

ARRAYS = "arrays"
"""Name of the one ArrayRecord that edgefl reads and writes; it is also stock Flower's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a message carries.

    Attributes:
        arrays: float32 arrays of the record `arrays`, by key; those that were received are read-only.
        configs: ConfigRecords by name, such as `config`, `reply` or `properties`.
        metrics: MetricRecords by name, such as `metrics`.
    """

    arrays: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, ConfigValue]] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, MetricValue]] = field(default_factory=dict)


def encode_content(store: ObjectStore, content: Content) -> str:
    """Add a content to a store and return the id of its RecordDict.

    Raises:
        TypeError: If a value is of a type Flower cannot carry.
        ValueError: If an integer does not fit in 64 bits.
    """
    records: dict[str, str] = {}
    if content.arrays:
        arrays = {name: encode_array(store, array) for name, array in content.arrays.items()}
        records[ARRAYS] = store.add("ArrayRecord", arrays.values(), json.dumps(arrays).encode())
    for name, config in content.configs.items():
        records[name] = store.add("ConfigRecord", (), encode_config(config))
    for name, metrics in content.metrics.items():
        records[name] = store.add("MetricRecord", (), encode_metrics(metrics))
    return store.add("RecordDict", records.values(), json.dumps(records).encode())


def decode_content(store: ObjectStore, key: str) -> Content:
    """Read the content below a RecordDict.

    Raises:
        ObjectError: If an object is missing, forged, of the wrong type or contradicts itself.
    """
    _, found = store.get(key, ["RecordDict"])
    arrays: dict[str, NDArray[np.float32]] = {}
    configs: dict[str, dict[str, ConfigValue]] = {}
    metrics: dict[str, dict[str, MetricValue]] = {}
    for name, record in _references(found).items():
        kind, parts = store.get(record, ["ArrayRecord", "ConfigRecord", "MetricRecord"])
        if kind == "ConfigRecord":
            configs[name] = decode_config(parts.body)
        elif kind == "MetricRecord":
            metrics[name] = decode_metrics(parts.body)
        elif name == ARRAYS:
            arrays = _decode_arrays(store, parts)
    return Content(arrays=arrays, configs=configs, metrics=metrics)


def content_digest(content: Content) -> bytes:
    """Return a sha256 that two contents share only if they are equal.

    Flower's own ids do not: it writes the keys of a record in any order.
    """
    arrays = {name: (array.shape, hashlib.sha256(array.data).hexdigest()) for name, array in content.arrays.items()}
    whole = msgspec.json.encode((arrays, content.configs, content.metrics), order="deterministic")
    return hashlib.sha256(whole).digest()


def _decode_arrays(store: ObjectStore, record: StoredObject) -> dict[str, NDArray[np.float32]]:
    left_bytes = MAX_MESSAGE_BYTES
    decoded: dict[str, NDArray[np.float32]] = {}
    for key in record.children:
        decoded[key] = decode_array(store, key, left_bytes)
        left_bytes -= decoded[key].nbytes
    # Names of equal arrays share one: they are read-only.
    return {name: decoded[key] for name, key in _references(record).items()}


def _references(found: StoredObject) -> dict[str, str]:
    """Return ids of children by name."""
    try:
        references = msgspec.json.decode(found.body, type=dict[str, str])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ObjectError(f"a record whose body is not ids by name: {error}") from error
    if set(references.values()) != set(found.children):
        raise ObjectError("a record whose body names other objects than its head")
    return references
