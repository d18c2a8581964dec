"""Pages that machines and other languages rely on say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgefl import errors
from edgefl.bundle.manifest import Manifest, Model
from edgefl.serve.client import Answer
from tests.golden_bundle import GOLDEN
from tests.serve.service import served

ROOT = Path(__file__).parent.parent
FORMAT = (ROOT / "edgefl" / "bundle" / "FORMAT.md").read_text(encoding="utf-8")
REPORTS = (ROOT / "docs" / "reports.md").read_text(encoding="utf-8")
SERVE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
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


def test_the_example_of_the_service_runs_against_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = re.findall(r"```python\n(.+?)```", SERVE, re.DOTALL)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "seven.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}

    with served() as service:
        exec(snippet.replace("127.0.0.1:50051", service.address).replace("deadline_ms=50", "deadline_ms=10_000"), names)  # noqa: S102  # the page's own

    assert isinstance(names["answer"], Answer)


def test_every_reason_to_stop_and_every_status_of_the_service_stands_on_its_page() -> None:
    policy = [ROOT / "edgefl" / "policy" / name for name in ("exit_policy.py", "stopping.py")]
    sources = [*policy, ROOT / "edgefl" / "serve" / "running.py"]
    reasons = {rule for path in sources for rule in re.findall(r'rule="(\w+)"', path.read_text("utf-8"))}
    statuses = re.findall(r"StatusCode\.(\w+)", (ROOT / "edgefl" / "serve" / "service.py").read_text("utf-8"))

    assert {"battery", "load", "deadline", "deepest"} <= reasons
    # A service is never told to answer at one exit only, and has no budget of energy.
    assert {reason for reason in reasons - {"fixed", "energy"} if f"`{reason}`" not in SERVE} == set()
    assert {status for status in set(statuses) - {"CANCELLED", "INTERNAL"} if f"`{status}`" not in SERVE} == set()
