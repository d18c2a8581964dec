"""The settings of a run, validated once and handed to the ServerApp through Flower's run config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

import msgspec

from edgefl.errors import BadInputError

__all__ = ["Scalar", "Settings"]

Scalar = bool | int | float | str
"""What Flower's run config can hold."""

_Count = Annotated[int, msgspec.Meta(ge=1)]
_Natural = Annotated[int, msgspec.Meta(ge=0)]
_Seed = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
_Fraction = Annotated[float, msgspec.Meta(ge=0, lt=1)]
_Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the server does and what it asks of the devices; made by `from_run_config`, which checks it.

    Attributes:
        bundle: Folder of the bundle that is trained.
        state: Folder of everything the server keeps.
        rounds: Rounds of the whole run, those before a restart included.
        min_clients: Clients that must be there before a round starts.
        draw: `own` trains each tier's own exit, `uniform` draws an exit up to it for each local step.
        optimizer: The devices' optimizer, fresh in each round.
        learning_rate: Its step size in round 1.
        momentum: SGD's momentum.
        weight_decay: AdamW's decoupled decay.
        clip: Largest norm of a step's gradient, 0 = off.
        epochs: Local epochs.
        batch_size: Samples in one local step.
        deadline_seconds: Longest time a round waits for replies.
        quorum: Share of the cohort whose updates make a round count.
        grace_seconds: How long the others still have once the quorum is there.
        weighting: `equal`, or `samples` to weigh an update by its number of examples.
        untouched: What an element counts that a client did not train (docs/protocol.md, Averaging).
        server_momentum: Momentum of the server's own step, 0 = plain averaging.
        schedule: Whether the learning rate falls with the rounds along a cosine.
        seed: Start of all random numbers of the run.
    """

    bundle: str
    state: str
    rounds: _Count
    min_clients: _Count = 1
    draw: Literal["own", "uniform"] = "uniform"
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: _Positive = 1e-3
    momentum: _Fraction = 0.9
    weight_decay: _NotNegative = 0.0
    clip: _NotNegative = 1.0
    epochs: _Count = 1
    batch_size: _Count = 32
    deadline_seconds: _Positive = 600.0
    quorum: _Share = 0.5
    grace_seconds: _NotNegative = 30.0
    weighting: Literal["equal", "samples"] = "equal"
    untouched: Literal["keep", "mix_old", "zero"] = "keep"
    server_momentum: _Fraction = 0.6
    schedule: Literal["cosine", "constant"] = "cosine"
    seed: _Seed = 0

    @classmethod
    def from_run_config(cls, config: Mapping[str, Scalar]) -> Self:
        """Read and check the settings of a run.

        Raises:
            BadInputError: If one is missing, unknown, of the wrong type or out of range.
        """
        try:
            return msgspec.convert(dict(config), cls)
        except msgspec.ValidationError as error:
            raise BadInputError(f"these settings cannot be run: {error}; see `edgefl server run --help`") from error

    def to_run_config(self) -> dict[str, Scalar]:
        """Return the settings by name."""
        config: dict[str, Scalar] = msgspec.to_builtins(self)
        return config

    def learning_rate_in(self, round_number: int) -> float:
        """Return the devices' step size in a round: half a cosine from `learning_rate`, above 0 in the last round.

        Args:
            round_number: From 1 to `rounds`.
        """
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (round_number - 1) / self.rounds))
