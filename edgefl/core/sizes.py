"""Amounts of memory as people write them on a command line: `150MB`, `1.5 GiB`, `64MB,150MB`."""

from __future__ import annotations

import re
from fractions import Fraction

import click

__all__ = ["ByteSizes"]

_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?([A-Za-z]+)")
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_BY_LOWER_CASE = {unit.lower(): factor for unit, factor in _UNITS.items()}


class ByteSizes(click.ParamType[tuple[int, ...]]):
    """One size or several with commas between them, each a number and a unit; gives a tuple of bytes.

    MB is 10^6 bytes, MiB is 2^20; upper and lower case are one.  A part of a byte is dropped.
    """

    name = "size"

    def __init__(self, *, several: bool = False) -> None:
        """Make the type.

        Args:
            several: Whether more than one size may be given.
        """
        self._several = several

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the sizes in bytes; anything that is none is a usage error."""
        if isinstance(value, tuple):  # click converts defaults and values twice
            return value
        parts = str(value).split(",")
        if len(parts) > 1 and not self._several:
            self.fail(f"{str(value)[:60]!r} is more than one size", param, ctx)
        return tuple(self._bytes(part.strip(), param, ctx) for part in parts)

    def _bytes(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = _SIZE.fullmatch(text)
        if match is None or match[2].lower() not in _BY_LOWER_CASE:
            self.fail(
                f"{text[:60]!r} is no size; write a number and a unit, {', '.join(_UNITS)}, such as 150MB", param, ctx
            )
        return int(Fraction(match[1]) * _BY_LOWER_CASE[match[2].lower()])
