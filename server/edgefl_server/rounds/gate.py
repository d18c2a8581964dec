"""Look at an update as a whole before any of it is counted: nothing a device sends is believed unread."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from flwr.app import ArrayRecord, Message

from edgefl.core.tensor_slice import TensorSlice
from edgefl.errors import RefusedError
from edgefl.update.instruction import Instruction, ReplyHeader
from edgefl_server.rounds.aggregate import FloatArray
from edgefl_server.rounds.arrays import decode_array

__all__ = ["Metrics", "Update", "read_update"]

_Natural = Annotated[int, msgspec.Meta(ge=0)]
_Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Metrics(msgspec.Struct, frozen=True, kw_only=True, rename={"num_examples": "num-examples"}):
    """What a device measured while it trained (docs/protocol.md, `metrics`).

    Attributes:
        num_examples: Local samples.
        loss: Mean loss of the last local epoch.
        steps: Local steps.
        train_seconds: Time they took.
        peak_rss_bytes: Largest resident memory of the client.
    """

    num_examples: Annotated[int, msgspec.Meta(ge=1)]
    loss: float
    steps: _Natural
    train_seconds: _Seconds
    peak_rss_bytes: _Natural


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A reply that passed.

    Attributes:
        header: What it answers and covers.
        metrics: What came with it.
        parts: Finite float32 arrays by key; no two overlap.
    """

    header: ReplyHeader
    metrics: Metrics
    parts: Mapping[str, FloatArray]

    @property
    def num_bytes(self) -> int:
        """Bytes of the arrays' values."""
        return sum(part.nbytes for part in self.parts.values())


def read_update(
    node_id: int, reply: Message, instructions: Mapping[int, Instruction], shapes: Mapping[str, tuple[int, ...]]
) -> Update:
    """Read a reply and check all of it.

    Args:
        node_id: The node whose reply was asked for.
        reply: The reply; not an error.
        instructions: What each node of the cohort was asked to do.
        shapes: Shape of each adapter tensor.

    Raises:
        RefusedError: If the reply is not from this node, answers another question, or holds anything but finite
            float32 arrays that fit the adapter and do not overlap.
    """
    instruction = instructions.get(node_id)
    if instruction is None or reply.metadata.src_node_id != node_id:
        raise RefusedError(f"node {reply.metadata.src_node_id} was not asked in this round")
    header = _read_header(reply, instruction)
    metrics = _read_metrics(reply)
    arrays = reply.content.array_records.get("arrays")
    if not arrays or sorted(header.coverage) != sorted(arrays):
        raise RefusedError("the keys of `arrays` are not those of `coverage`, or there are none")
    return Update(header=header, metrics=metrics, parts=_read_parts(arrays, shapes))


def _read_header(reply: Message, instruction: Instruction) -> ReplyHeader:
    header = ReplyHeader.from_config(reply.content.config_records.get("reply", {}))
    for field in ("bundle_id", "adapter_version", "round", "reply"):
        found, expected = getattr(header, field), getattr(instruction, field)
        if found != expected:
            raise RefusedError(f"the reply's {field} is {found!r}, the instruction's {expected!r}")
    if header.exit_index > instruction.exit_index:
        raise RefusedError(f"it trained exit {header.exit_index}, the instruction goes to {instruction.exit_index}")
    return header


def _read_metrics(reply: Message) -> Metrics:
    try:
        metrics = msgspec.convert(dict(reply.content.metric_records.get("metrics", {})), Metrics)
    except msgspec.ValidationError as error:
        raise RefusedError(f"`metrics` cannot be used: {error}") from error
    if not math.isfinite(metrics.loss) or not math.isfinite(metrics.train_seconds):
        raise RefusedError(f"loss {metrics.loss} or train_seconds {metrics.train_seconds} is not finite")
    return metrics


def _read_parts(arrays: ArrayRecord, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, FloatArray]:
    parts: dict[str, FloatArray] = {}
    seen: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]] = {}
    for key, array in arrays.items():
        part, shape = _locate(key, shapes)
        parts[key] = decode_array(key, array, shape)
        taken = seen.setdefault(part.name, np.zeros(shapes[part.name], dtype=np.bool_))
        if taken[part.index].any():
            # An element that came twice would weigh twice.
            raise RefusedError(f"array {key!r} overlaps another part of {part.name!r}")
        taken[part.index] = True
    return parts


def _locate(key: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[TensorSlice, tuple[int, ...]]:
    """Return the part of the adapter a key names, and its shape."""
    try:
        part = TensorSlice.parse(key)
        if part.name not in shapes:
            raise RefusedError(f"array {key!r} belongs to no tensor of the adapter")
        return part, part.shape(shapes[part.name])
    except ValueError as error:
        raise RefusedError(str(error)) from error
