"""JSON that a person can read and compare: one entry a line, the same bytes for the same content."""

from __future__ import annotations

import json
from collections.abc import Mapping

__all__ = ["readable_json"]


def readable_json(fields: Mapping[str, object]) -> str:
    """Return a manifest's fields as JSON, one tensor, graph and call on a line."""
    return "{\n" + ",\n".join(_line(key, value) for key, value in fields.items()) + "\n}\n"


def _line(key: str, value: object) -> str:
    """Spread mappings over lines two levels deep, and programs three, so that a person can read them."""
    return f'"{key}": ' + _spread(value, depth=4 if key == "programs" else 1, indent=" ")


def _spread(value: object, depth: int, indent: str) -> str:
    if (
        depth == 0
        or not isinstance(value, dict | list)
        or not value
        or not any(isinstance(v, dict | list) for v in _values(value))
    ):
        return json.dumps(value, ensure_ascii=False)
    inner = indent + " "
    if isinstance(value, dict):
        rows = [f"{inner}{json.dumps(k)}: {_spread(v, depth - 1, inner)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _spread(v, depth - 1, inner) for v in value) + f"\n{indent}]"


def _values(value: dict[str, object] | list[object]) -> list[object]:
    return list(value.values()) if isinstance(value, dict) else value
