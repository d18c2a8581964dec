"""The message of tests/golden/fleet/objects.json as flwr encodes it.

Write the file anew, from the root of the repository, with `python -m tests.flower.golden_objects`.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from flwr.app.message.message import make_message
from flwr.app.metadata import Metadata
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from edgefl.core.record_values import ConfigValue, MetricValue
from edgefl.fleet import fleet_pb2
from edgefl.fleet.content import Content

GOLDEN = Path(__file__).parents[1] / "golden" / "fleet" / "objects.json"

NODE_ID = 2**64 - 3
NOW = 1795255300.25
INSTRUCTION = fleet_pb2.Metadata(
    run_id=2**63 + 5,
    message_id="1f" * 32,
    src_node_id=1,
    dst_node_id=NODE_ID,
    group_id="3",
    ttl=600.0,
    message_type="train",
    created_at=1795255200.5,
    src_task_id=11,
    dst_task_id=0,
)
ARRAYS = {
    "client_token": np.array(2.5, np.float32),
    "head.bias[0:2]": np.array([1.0, -1.0], np.float32),
    "head.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "same values as head.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
}
CONFIGS: dict[str, dict[str, ConfigValue]] = {
    "reply": {
        "true": True,
        "false": False,
        "int": -42,
        "largest int": 2**63 - 1,
        "unsigned": 2**64 - 1,
        "float": 0.1,
        "text": "Grüße, 世界",
        "bytes": b"\x00\xff",
        "bools": [True, False],
        "ints": [0, -1, 2**40],
        "unsigned ints": [2**64 - 1, 1],
        "floats": [0.5, -1e300],
        "texts": ["head.bias[0:2]", ""],
        "many bytes": [b"", b"ab"],
        "none": [],
    }
}
METRICS: dict[str, dict[str, MetricValue]] = {
    "metrics": {"num-examples": 180, "loss": 0.125, "large": 2**64 - 1, "negative": -7}
}
CONTENT = Content(arrays=ARRAYS, configs=CONFIGS, metrics=METRICS)


def flower_message(content: RecordDict | None, error: Error | None = None) -> Message:
    """Return the reply to INSTRUCTION as flwr makes it."""
    metadata = Metadata(
        run_id=INSTRUCTION.run_id,
        message_id="",
        src_node_id=NODE_ID,
        dst_node_id=1,
        reply_to_message_id=INSTRUCTION.message_id,
        group_id="3",
        created_at=NOW,
        ttl=INSTRUCTION.created_at + INSTRUCTION.ttl - NOW,
        message_type="train",
        src_task_id=0,
        dst_task_id=11,
    )
    return make_message(metadata, content, error)


def flower_content() -> RecordDict:
    records: dict[str, Any] = {"arrays": ArrayRecord({name: Array(array) for name, array in ARRAYS.items()})}
    records |= {name: ConfigRecord({**record}) for name, record in CONFIGS.items()}
    records |= {name: MetricRecord({**record}) for name, record in METRICS.items()}
    return RecordDict(records)


def encoded(message: Message) -> dict[str, bytes]:
    """Return flwr's objects of a message by id."""
    return {key: item.deflate() for key, item in get_all_nested_objects(message).items()}


def as_json() -> dict[str, Any]:
    reply, error = flower_message(flower_content()), flower_message(None, Error(2, "no memory"))
    objects = encoded(reply) | encoded(error)
    return {
        "about": "Replies as flwr encodes them: decoding and encoding again must give the same objects.",
        "instruction": {
            "run_id": str(INSTRUCTION.run_id),
            "message_id": INSTRUCTION.message_id,
            "src_node_id": "1",
            "group_id": "3",
            "ttl": 600.0,
            "message_type": "train",
            "created_at": INSTRUCTION.created_at,
            "src_task_id": "11",
            "dst_task_id": "0",
        },
        "node_id": str(NODE_ID),
        "now": NOW,
        "reply": {
            "message_id": reply.object_id,
            "arrays": {k: {"shape": list(a.shape), "values": a.ravel().tolist()} for k, a in ARRAYS.items()},
            "configs": {name: [_typed(k, v) for k, v in record.items()] for name, record in CONFIGS.items()},
            "metrics": {name: [_typed(k, v) for k, v in record.items()] for name, record in METRICS.items()},
        },
        "error": {"message_id": error.object_id, "code": 2, "reason": "no memory"},
        "objects": {key: base64.b64encode(content).decode() for key, content in objects.items()},
    }


def _typed(key: str, value: object) -> dict[str, object]:
    """Return a value with its type: JSON has neither bytes nor 64-bit integers."""
    if isinstance(value, list):
        kind = f"list of {type(value[0]).__name__}" if value else "list of bool"
        return {"key": key, "type": kind, "value": [_plain(item) for item in value]}
    return {"key": key, "type": type(value).__name__, "value": _plain(value)}


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(as_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
