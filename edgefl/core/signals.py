"""What a device knows about itself at a moment, as far as it can be read."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["Signals"]


class Signals(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One reading; None is unknown, and nothing is ever guessed.

    Attributes:
        charge: Of the battery, in [0, 1].
        charging: Whether the device takes power from outside.
        power_save: Whether its user or system asked it to save power.
        celsius: Its highest temperature.
        throttled: Whether it runs slower than it could, for heat or a weak supply.
        free_memory: Bytes that this process can still take, within the limit of its control group.
        metered: Whether somebody pays for what it sends.
        idle: Whether nobody is using it.
    """

    charge: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] | None = None
    charging: bool | None = None
    power_save: bool | None = None
    celsius: Annotated[float, msgspec.Meta(ge=-60.0, le=200.0)] | None = None
    throttled: bool | None = None
    free_memory: Annotated[int, msgspec.Meta(ge=0)] | None = None
    metered: bool | None = None
    idle: bool | None = None
