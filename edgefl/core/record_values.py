"""What the records of a Flower message can hold (docs/protocol.md)."""

from __future__ import annotations

__all__ = ["ConfigValue", "MetricValue"]

ConfigValue = bool | int | float | str | bytes | list[bool] | list[int] | list[float] | list[str] | list[bytes]
"""A value of a ConfigRecord."""

MetricValue = int | float
"""A value edgefl puts into a MetricRecord, which could hold lists too."""
