"""Pages that machines and other languages rely on say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from edgefl import errors
from edgefl.bundle.manifest import Manifest, Model
from tests.golden_bundle import GOLDEN

ROOT = Path(__file__).parent.parent
FORMAT = (ROOT / "edgefl" / "bundle" / "FORMAT.md").read_text(encoding="utf-8")
REPORTS = (ROOT / "docs" / "reports.md").read_text(encoding="utf-8")
SOURCES = [path for folder in ("edgefl", "export", "server") for path in (ROOT / folder).rglob("*.py")]


def test_every_refusal_of_a_bundle_stands_in_its_specification() -> None:
    refusals = FORMAT.partition("## Refusals")[2].partition("## Why")[0]
    everything = [value for value in vars(errors).values() if isinstance(value, type)]
    classes = [value for value in everything if issubclass(value, errors.EdgeFLError)]

    listed = set(re.findall(r"^\| `(\w+)` \|", refusals, re.MULTILINE))

    assert {error.__name__ for error in classes if issubclass(error, errors.BundleError)} <= listed
    assert listed <= {error.__name__ for error in classes if error.exit_code == 3}


def test_every_field_of_the_manifest_stands_in_its_specification() -> None:
    for field in (*Manifest.__struct_fields__, *Model.__struct_fields__):
        assert f"`{field}`" in FORMAT


def test_every_record_a_command_writes_is_listed() -> None:
    written = {name for path in SOURCES for name in re.findall(r'Record\(\s*name="(\w+)"', path.read_text("utf-8"))}

    assert {"peak_rss", "latency", "round_seconds"} <= written
    assert {name for name in written if f"`{name}`" not in REPORTS} == set()


def test_the_golden_bundle_has_the_files_the_specification_names() -> None:
    named = {"manifest.json", "backbone.safetensors", "adapter.safetensors", "selftest.safetensors", "exit_00.onnx"}

    assert named <= {path.name for path in GOLDEN.iterdir()}
    assert all(f"`{name}`" in FORMAT for name in named)
