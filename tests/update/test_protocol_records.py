"""The three records of a federation, as every language must read them (tests/golden/protocol, docs/protocol.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.core.record_values import ConfigValue
from edgefl.errors import InstructionError
from edgefl.fleet.records import decode_config, encode_config
from edgefl.update.instruction import Instruction, Properties, ReplyHeader
from tests.golden.make_protocol import FOLDER, INSTRUCTION, RECORDS, text

PROTOCOL = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
READERS: dict[str, type[Instruction | ReplyHeader | Properties]] = {
    "instruction": Instruction,
    "reply": ReplyHeader,
    "properties": Properties,
}


def untyped(config: Mapping[str, Mapping[str, Any]]) -> dict[str, ConfigValue]:
    """Return the values of a golden record without their types."""
    return {
        key: float(value) if kind == "float" else value
        for key, typed in config.items()
        for kind, value in typed.items()
    }


def golden(kind: str) -> list[Any]:
    """Return a record, its values and the field at fault for each golden case of a kind."""
    cases = []
    for record in READERS:
        file = json.loads((FOLDER / f"{record}.json").read_text(encoding="utf-8"))
        for case in file[kind]:
            config = untyped(file["record"] | case.get("set", {}))
            config.pop(case.get("remove"), None)
            change = json.dumps(case["set"]) if "set" in case else f"without {case['remove']}"
            cases.append(pytest.param(record, config, case.get("field"), id=f"{record} {change}"))
    return cases


def over_the_wire(config: Mapping[str, ConfigValue]) -> dict[str, ConfigValue]:
    """Return what arrives of the values."""
    return decode_config(memoryview(encode_config(config)))


@pytest.mark.parametrize("record", RECORDS)
def test_the_golden_files_are_what_their_generator_writes(record: str) -> None:
    assert (FOLDER / f"{record}.json").read_text(encoding="utf-8") == text(record)


@pytest.mark.parametrize(("record", "config", "field"), golden("valid"))
def test_a_valid_record_is_read_and_written_back_without_what_nobody_knows(
    record: str, config: dict[str, ConfigValue], field: None
) -> None:
    known = {key: value for key, value in config.items() if key in RECORDS[record]}

    assert field is None
    assert READERS[record].from_config(over_the_wire(config)).to_config() == known


@pytest.mark.parametrize(("record", "config", "field"), golden("refused"))
def test_a_wrong_record_is_refused_and_the_field_is_named(
    record: str, config: dict[str, ConfigValue], field: str
) -> None:
    with pytest.raises(InstructionError, match=rf"of protocol 1: .*[.`]{field}(\[0\])?`; update the older side"):
        READERS[record].from_config(over_the_wire(config))


@pytest.mark.parametrize(("record", "heading"), [("instruction", "config"), ("reply",) * 2, ("properties",) * 2])
def test_the_fields_and_their_order_are_those_of_the_page(record: str, heading: str) -> None:
    table = PROTOCOL.partition(f"## `{heading}`")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?`) \|", table, re.MULTILINE)

    assert [name for row in rows for name in re.findall(r"`(\w+)`", row)] == list(READERS[record].__struct_fields__)
    assert list(RECORDS[record]) == list(READERS[record].__struct_fields__)


@given(
    learning_rate=st.floats(min_value=0, max_value=1e9, exclude_min=True),
    clip=st.floats(min_value=0, max_value=1e9),
    seed=st.integers(min_value=0, max_value=2**63 - 1),
    epochs=st.integers(min_value=1, max_value=2**63 - 1),
)
def test_every_number_in_range_arrives_to_the_last_bit(
    learning_rate: float, clip: float, seed: int, epochs: int
) -> None:
    asked = INSTRUCTION | {"learning_rate": learning_rate, "clip": clip, "seed": seed, "epochs": epochs}

    assert Instruction.from_config(over_the_wire(asked)).to_config() == asked


@given(st.dictionaries(st.sampled_from(list(INSTRUCTION)), st.none() | st.integers() | st.floats() | st.text()))
def test_whatever_the_values_are_an_instruction_is_read_or_refused(wrong: dict[str, Any]) -> None:
    try:
        Instruction.from_config(INSTRUCTION | wrong)
    except InstructionError as refusal:
        assert any(name in str(refusal) for name in wrong)  # noqa: PT017  # both ends are right
