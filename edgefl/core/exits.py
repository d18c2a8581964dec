"""Exits as people write them: `0-11`, `2,5,8,11`, `0-3,11`."""

from __future__ import annotations

import re

from edgefl.errors import ExitsError

__all__ = ["check_exits", "format_exits", "parse_exits"]

_PART = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")


def parse_exits(text: str) -> tuple[int, ...]:
    """Return the exits that a text names, rising and without repeats.

    Args:
        text: Exits and inclusive ranges of exits, separated by commas, such as `0-11` or `2,5,8,11`.

    Raises:
        ExitsError: If a part is neither a number nor a rising range.
    """
    exits: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise ExitsError(f"exits {text!r}: {part.strip()!r} is neither a number nor a range such as 0-11")
        first = int(match[1])
        last = int(match[2] or first)
        if last < first:
            raise ExitsError(f"exits {text!r}: the range {part.strip()} falls; write {last}-{first}")
        exits.update(range(first, last + 1))
    return tuple(sorted(exits))


def check_exits(exits: tuple[int, ...], available: tuple[int, ...], owner: str) -> None:
    """Refuse exits that do not exist.

    Args:
        exits: The exits asked for.
        available: The exits there are.
        owner: What has them, for the message, such as `model deit_small_patch16_224`.

    Raises:
        ExitsError: If one of `exits` is not in `available`.
    """
    if missing := sorted(set(exits) - set(available)):
        named = ", ".join(map(str, missing))
        raise ExitsError(f"exit {named} does not exist: {owner} has the exits {format_exits(available)}")


def format_exits(exits: tuple[int, ...]) -> str:
    """Return exits in the short form that `parse_exits` reads: `0-3,11`."""
    runs: list[list[int]] = []
    for exit_index in sorted(exits):
        if runs and exit_index == runs[-1][1] + 1:
            runs[-1][1] = exit_index
        else:
            runs.append([exit_index, exit_index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
