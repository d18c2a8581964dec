"""Make tests/golden/protocol again: `python -m tests.golden.make_protocol`.

Records as docs/protocol.md describes them, for every language that speaks the protocol.  A file holds one whole record
and what to set in it, or to remove from it, so that it is still valid, or refused with the name of a field.

A value stands with its type, as in a Flower ConfigRecord: `{"int": 1}`, `{"float": 0.5}`, `{"str": "own"}`,
`{"bool": true}`, `{"strs": ["positions[0:3]"]}`; floats that JSON cannot hold are the texts `NaN`, `Infinity` and
`-Infinity`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from edgefl.core.record_values import ConfigValue

FOLDER = Path(__file__).parent / "protocol"

Config = dict[str, ConfigValue]

BUNDLE_ID = "3f" * 32
INSTRUCTION: Config = {
    "edgefl": 1,
    "bundle_id": BUNDLE_ID,
    "adapter_version": 4,
    "round": 5,
    "exit_index": 2,
    "draw": "uniform",
    "seed": 1234567890,
    "optimizer": "adamw",
    "learning_rate": 0.001,
    "momentum": 0.9,
    "weight_decay": 0.01,
    "clip": 1.0,
    "epochs": 1,
    "batch_size": 32,
    "deadline_seconds": 600.0,
    "reply": "values",
}
REPLY: Config = {
    "edgefl": 1,
    "bundle_id": BUNDLE_ID,
    "adapter_version": 4,
    "round": 5,
    "exit_index": 2,
    "coverage": ["head.weight", "positions[0:4]", "fc2.weight[:,0:640]"],
    "reply": "values",
}
PROPERTIES: Config = {
    "edgefl": 1,
    "bundle_id": BUNDLE_ID,
    "deepest_exit": 11,
    "num_examples": 240,
    "memory_bytes": 8 * 2**30,
    "cores": 4,
    "machine": "aarch64",
    "client": "edgefl-python/0.1.0",
}
# Other values that are allowed, by record and field: the ends of every range.
ALLOWED: dict[str, dict[str, list[ConfigValue]]] = {
    "instruction": {
        "adapter_version": [0, 2**63 - 1],
        "round": [1],
        "exit_index": [0],
        "draw": ["own"],
        "seed": [0, 2**63 - 1],
        "optimizer": ["sgd"],
        "learning_rate": [5e-324, 1e9, 1],  # a whole number may come as one
        "momentum": [0.0, 0.999999, 0],
        "weight_decay": [0.0, 1e9],
        "clip": [0.0, 1e9],
        "epochs": [10**12],
        "batch_size": [1, 10**12],
        "deadline_seconds": [0.001, 1e9],
        "reply": ["delta"],
    },
    "reply": {"coverage": [["head.weight"]], "reply": ["delta"]},
    "properties": {"num_examples": [0], "cores": [1], "machine": [""]},
}
NOT_POSITIVE: list[ConfigValue] = [0.0, -0.1, math.nan, math.inf, -math.inf, 1.1e9]
NEGATIVE: list[ConfigValue] = [-0.1, math.nan, math.inf, -math.inf, 1.1e9]
NO_VERSION: list[ConfigValue] = [0, 2, -1]
REFUSED: dict[str, dict[str, list[ConfigValue]]] = {
    "instruction": {
        "edgefl": NO_VERSION,
        "adapter_version": [-1],
        "round": [0, -1],
        "exit_index": [-1],
        "draw": ["", "OWN", "deepest"],
        "seed": [-1],
        "optimizer": ["", "adam", "SGD"],
        "learning_rate": NOT_POSITIVE,
        "momentum": [-0.1, 1.0, math.nan, math.inf],
        "weight_decay": NEGATIVE,
        "clip": NEGATIVE,
        "epochs": [0, -1],
        "batch_size": [0, -1],
        "deadline_seconds": NOT_POSITIVE,
        "reply": ["", "gradients"],
    },
    "reply": {
        "edgefl": NO_VERSION,
        "adapter_version": [-1],
        "round": [0],
        "exit_index": [-1],
        "coverage": [[1, 2]],
        "reply": ["both"],
    },
    "properties": {
        "edgefl": NO_VERSION,
        "deepest_exit": [-1],
        "num_examples": [-1],
        "memory_bytes": [-1],
        "cores": [0],
    },
}
RECORDS = {"instruction": INSTRUCTION, "reply": REPLY, "properties": PROPERTIES}
# One value of each type, to stand where another type belongs.
_OF_EACH_TYPE: tuple[ConfigValue, ...] = (7, 0.5, "text", True, ["a"])


def text(record: str) -> str:
    """Return the content of a record's file."""
    unknown: Config = {"from_the_future": "ignored", "round_": 3}
    changes: list[Config] = [{}, unknown]
    changes += [{field: value} for field, values in ALLOWED[record].items() for value in values]
    lines = [f'{{"record": {json.dumps(_typed(RECORDS[record]))},', '"valid": [']
    lines += [
        _lines({"set": _typed(change)} for change in changes),
        '],\n"refused": [',
        _lines(_refused(record)),
        "]}\n",
    ]
    return "\n".join(lines)


def _lines(cases: Iterable[Mapping[str, object]]) -> str:
    return ",\n".join(map(json.dumps, cases))


def _refused(record: str) -> Iterator[dict[str, object]]:
    for field, right in RECORDS[record].items():
        yield {"field": field, "remove": field}
        for wrong in _OF_EACH_TYPE:
            # A whole number is a number: where a float belongs, an int is welcome.
            if type(wrong) is not type(right) and not (type(right) is float and type(wrong) is int):
                yield {"field": field, "set": _typed({field: wrong})}
    for field, values in REFUSED[record].items():
        for value in values:
            yield {"field": field, "set": _typed({field: value})}


def _typed(config: Mapping[str, ConfigValue]) -> dict[str, dict[str, object]]:
    return {key: _typed_value(value) for key, value in config.items()}


def _typed_value(value: ConfigValue) -> dict[str, object]:
    if isinstance(value, list):
        return {"strs" if all(isinstance(each, str) for each in value) else "ints": value}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    return {type(value).__name__: value}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for record in RECORDS:
        (FOLDER / f"{record}.json").write_text(text(record), encoding="utf-8")
