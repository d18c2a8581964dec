"""An exit on a command line, or the word that leaves the choice to the device."""

from __future__ import annotations

import click

__all__ = ["ExitOption"]


class ExitOption(click.ParamType[int | str]):
    """`auto`, or the number of an exit."""

    name = "auto|K"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return `auto` or the number; anything else is a usage error."""
        text = str(value)
        if text == "auto":
            return text
        if not (text.isascii() and text.isdigit() and len(text) <= 4):
            self.fail(f"{text[:60]!r} is neither auto nor the number of an exit", param, ctx)
        return int(text)
