"""The name of a part of a tensor: `accumulator.positions[0:7]`, `mlp.fc2.weight[:,0:640]`, or a whole tensor.

The same grammar names what a program's gradient reaches, what an update carries and what the server averages,
so coverage is counted per element and never per tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["TensorSlice", "merge_slices"]

_KEY = re.compile(r"([^\[\]]+)(?:\[([0-9:,]+)\])?")
_RANGE = re.compile(r"(\d{1,9}):(\d{1,9})|:")


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """A box of a tensor's elements.

    Attributes:
        name: The tensor's name.
        ranges: One (start, stop) for each leading axis, None for a whole axis; axes not mentioned are whole.
    """

    name: str
    ranges: tuple[tuple[int, int] | None, ...] = ()

    def __post_init__(self) -> None:
        if any(bounds is not None and bounds[0] >= bounds[1] for bounds in self.ranges):
            raise ValueError(f"{self.key!r} is empty: each start must be below its stop")

    @classmethod
    def parse(cls, key: str) -> TensorSlice:
        """Read a key such as `name`, `name[0:7]` or `name[:,0:640]`.

        Raises:
            ValueError: If the key does not follow the grammar or is empty.
        """
        match = _KEY.fullmatch(key)
        if match is None:
            raise ValueError(f"{key!r} is no tensor key: expected name, name[start:stop] or name[:,start:stop]")
        if match[2] is None:
            return cls(match[1])
        ranges: list[tuple[int, int] | None] = []
        for axis in match[2].split(","):
            bounds = _RANGE.fullmatch(axis)
            if bounds is None:
                raise ValueError(f"{key!r}: {axis!r} is no range: expected start:stop or :")
            ranges.append((int(bounds[1]), int(bounds[2])) if bounds[1] else None)
        return cls(match[1], tuple(ranges))

    @property
    def key(self) -> str:
        """The text that `parse` reads back."""
        if not self.ranges:
            return self.name
        axes = ",".join(":" if bounds is None else f"{bounds[0]}:{bounds[1]}" for bounds in self.ranges)
        return f"{self.name}[{axes}]"

    @property
    def index(self) -> tuple[slice, ...]:
        """What picks these elements out of a numpy array."""
        return tuple(slice(None) if bounds is None else slice(*bounds) for bounds in self.ranges)

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of this part of a tensor of shape `whole`.

        Raises:
            ValueError: If the part reaches outside the tensor.
        """
        if len(self.ranges) > len(whole):
            raise ValueError(f"{self.key!r} names {len(self.ranges)} axes, the tensor has shape {whole}")
        sizes = list(whole)
        for axis, bounds in enumerate(self.ranges):
            if bounds is None:
                continue
            if bounds[1] > whole[axis]:
                raise ValueError(f"{self.key!r} reaches outside the tensor's shape {whole}")
            sizes[axis] = bounds[1] - bounds[0]
        return tuple(sizes)


def merge_slices(slices: Iterable[TensorSlice]) -> tuple[TensorSlice, ...]:
    """Return the same elements in as few parts as can be had by joining rows and dropping repeats.

    Parts that name at most their first axis are joined where they touch or overlap; of the others, those that lie
    inside another part are dropped.  The order is that of the names' first appearance.

    Args:
        slices: Parts of any tensors; parts of one tensor that name more than the first axis must not overlap
            partly.
    """
    by_name: dict[str, list[TensorSlice]] = {}
    for part in slices:
        by_name.setdefault(part.name, []).append(_shortest(part))
    return tuple(part for parts in by_name.values() for part in _merge_one(parts))


def _shortest(part: TensorSlice) -> TensorSlice:
    """Leave out the whole axes at the end, so that the same elements always have the same name."""
    ranges = part.ranges
    while ranges and ranges[-1] is None:
        ranges = ranges[:-1]
    return TensorSlice(part.name, ranges)


def _merge_one(parts: list[TensorSlice]) -> list[TensorSlice]:
    if whole := [part for part in parts if not part.ranges]:
        return whole[:1]
    rows = sorted(part.ranges[0] for part in parts if len(part.ranges) == 1 and part.ranges[0] is not None)
    joined: list[tuple[int, int]] = []
    for start, stop in rows:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    merged = [TensorSlice(parts[0].name, (bounds,)) for bounds in joined]
    boxes = dict.fromkeys(part for part in parts if len(part.ranges) > 1)
    return merged + [
        box for box in boxes if not any(_inside(box, other) for other in (*merged, *boxes) if other != box)
    ]


def _inside(part: TensorSlice, other: TensorSlice) -> bool:
    """Say whether every element of one part belongs to the other."""
    for axis, bounds in enumerate(other.ranges):
        own = part.ranges[axis] if axis < len(part.ranges) else None
        if bounds is not None and (own is None or own[0] < bounds[0] or own[1] > bounds[1]):
            return False
    return True
