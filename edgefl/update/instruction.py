"""The three records of a federation: instruction (server to device), reply and properties (device to server).

Keys and types are fixed in docs/protocol.md and tests/golden/; keys that stock Flower reads keep its spelling
(`num-examples`, `server-round`), ours are snake_case.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

import msgspec

from edgefl.core.record_values import ConfigValue
from edgefl.errors import InstructionError

__all__ = ["PROTOCOL_VERSION", "Instruction", "Properties", "ReplyHeader"]

PROTOCOL_VERSION = 1

_LARGEST = 1e9  # infinity is no step size
_Positive = Annotated[float, msgspec.Meta(gt=0, le=_LARGEST)]
_Count = Annotated[int, msgspec.Meta(ge=1)]
_Natural = Annotated[int, msgspec.Meta(ge=0)]
_Fraction = Annotated[float, msgspec.Meta(ge=0, lt=1)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0, le=_LARGEST)]


class _ConfigRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Scalars that travel as one Flower ConfigRecord; fields that a later version adds are ignored.

    Attributes:
        edgefl: Version of this protocol; a record without it is not ours.
    """

    edgefl: Annotated[int, msgspec.Meta(ge=1, le=PROTOCOL_VERSION)]

    def to_config(self) -> dict[str, ConfigValue]:
        """Return the scalars by key."""
        fields: dict[str, ConfigValue] = msgspec.to_builtins(self)
        return fields

    @classmethod
    def from_config(cls, config: Mapping[str, ConfigValue]) -> Self:
        """Read the scalars.

        Raises:
            InstructionError: If one is missing, of the wrong type or out of range.
        """
        try:
            return msgspec.convert(dict(config), cls)
        except msgspec.ValidationError as error:
            raise InstructionError(
                f"a record that is no edgefl {cls.__name__} of protocol {PROTOCOL_VERSION}: {error}; "
                "update the older side"
            ) from error


class Instruction(_ConfigRecord, frozen=True, kw_only=True):
    """What the server asks one device to do in one round.

    Attributes:
        bundle_id: The bundle whose adapter travels along.
        adapter_version: Counts the server's aggregations; the reply carries it back.
        round: The server's round, from 1.
        exit_index: The exit to train, or the deepest one that may be drawn; a device that no longer affords it takes
            its own deepest one.
        draw: `own` trains `exit_index` in every step, `uniform` draws an exit from 0 to it for each step.
        seed: Of the order of samples and of the draw; one for each round and tier, a device mixes in its number of
            samples.
        optimizer: `sgd` or `adamw`, fresh in each round.
        learning_rate: Its step size.
        momentum: SGD's momentum, in [0, 1); ignored by AdamW.
        weight_decay: AdamW's decoupled decay; ignored by SGD.
        clip: Largest norm of a step's gradient; 0 switches clipping off.
        epochs: Local epochs.
        batch_size: Samples in one local step.
        deadline_seconds: How long after its arrival a reply is still of use; training ends when four fifths are over.
        reply: `values` asks for the new values, `delta` for their difference from the ones sent.
    """

    bundle_id: str
    adapter_version: _Natural
    round: _Count
    exit_index: _Natural
    draw: Literal["own", "uniform"]
    seed: _Natural
    optimizer: Literal["sgd", "adamw"]
    learning_rate: _Positive
    momentum: _Fraction
    weight_decay: _NotNegative
    clip: _NotNegative
    epochs: _Count
    batch_size: _Count
    deadline_seconds: _Positive
    reply: Literal["values", "delta"]


class ReplyHeader(_ConfigRecord, frozen=True, kw_only=True):
    """What goes with a device's arrays.

    Attributes:
        bundle_id: The bundle that was trained.
        adapter_version: The version the device started from.
        round: The round it answers.
        exit_index: The deepest exit that was trained.
        coverage: Keys of the elements that at least one step reached; the arrays have exactly these keys.
        reply: Whether the arrays are `values` or a `delta`.
    """

    bundle_id: str
    adapter_version: _Natural
    round: _Count
    exit_index: _Natural
    coverage: list[str]
    reply: Literal["values", "delta"]


class Properties(_ConfigRecord, frozen=True, kw_only=True):
    """What a device tells about itself when the server asks (`query.properties`).

    Attributes:
        bundle_id: The bundle it holds.
        deepest_exit: The deepest exit it can afford to train.
        num_examples: Local training samples.
        memory_bytes: Physical memory.
        cores: Logical processors.
        machine: Processor architecture, such as `aarch64`.
        client: Name and version of the client software.
    """

    bundle_id: str
    deepest_exit: _Natural
    num_examples: _Natural
    memory_bytes: _Natural
    cores: _Count
    machine: str
    client: str
