"""`edgefl export` as a user types it: what it writes, what it reports, what it refuses and with which exit code."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefl.cli import main
from edgefl.runtime.model import load

EDGEFL = [sys.executable, "-m", "edgefl"]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1"}


def edgefl(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, without a network."""
    return subprocess.run(
        [*EDGEFL, *arguments], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=900, check=False
    )


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run the command line in this process and return the exit code and what it says on standard error."""
    with pytest.raises(SystemExit) as ended:
        main(["export", *arguments])
    shown = capsys.readouterr()
    assert shown.out == ""
    code = ended.value.code
    assert isinstance(code, int)
    return code, shown.err


def values(report: dict[str, Any], name: str) -> dict[int | None, float]:
    """Return a report's values of one name, by exit."""
    return {r.get("labels", {}).get("exit"): r["value"] for r in report["records"] if r["name"] == name}


def test_a_small_export_writes_a_bundle_and_one_report(tmp_path: Path) -> None:
    done = edgefl(
        "export", "--exits", "0", "--classes", "3", "--mlp-dim", "16", "--batch-size", "2", "--json", "-", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["schema"], report["command"]) == ("edgefl.report/1", "export")
    assert report["settings"]["model"] == "glyphs_tiny_patch8_32"
    units = {record["name"]: record["unit"] for record in report["records"]}
    assert units == {
        "parity_logits": "1",
        "parity_gradient": "1",
        "weight_bytes": "byte",
        "bundle_bytes": "byte",
        "export_seconds": "s",
        "peak_rss": "byte",
    }
    assert values(report, "parity_logits").keys() == values(report, "parity_gradient").keys() == {0}
    assert 0 < values(report, "parity_gradient")[0] < 1e-4

    assert [path.name for path in tmp_path.iterdir()] == ["glyphs_tiny_patch8_32"]
    assert "glyphs_tiny_patch8_32: exits 0, " in done.stderr
    model = load(tmp_path / "glyphs_tiny_patch8_32")
    sizes = [path.stat().st_size for path in (tmp_path / "glyphs_tiny_patch8_32").iterdir()]
    assert values(report, "bundle_bytes") == {None: sum(sizes)}
    # --batch-size 2: all at once, or half of them.
    batches = {name: model.bundle.program(f"train/0/{name}").batch for name in ("fast", "balanced", "lean")}
    assert batches == {"fast": 2, "balanced": 1, "lean": 1}
    (prediction,) = model.infer(np.zeros((30, 40, 3), np.uint8))
    assert prediction.logits.shape == (1, 3)


@pytest.mark.slow
def test_an_export_that_replaces_no_token_is_recorded_as_such(tmp_path: Path) -> None:
    done = edgefl(
        *("export", "--no-replace", "--exits", "0-1", "--classes", "3", "--mlp-dim", "16", "--json", "-"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["settings"]["replace"] is False
    assert max(values(report, "parity_gradient").values()) < 1e-4
    manifest = load(tmp_path / "glyphs_tiny_patch8_32").bundle.manifest
    assert manifest.method.settings["replace"] is False
    graphs = sorted(name for name in manifest.graphs if name.startswith(("modulate", "block")))
    assert graphs == ["block", "block_exit"]


@pytest.mark.parametrize(
    ("exits", "message"),
    [
        ("0-12", "exit 12 does not exist: model glyphs_tiny_patch8_32 has the exits 0-11"),
        ("5-2", "the range 5-2 falls; write 2-5"),
        ("a", "'a' is neither a number nor a range such as 0-11"),
    ],
)
def test_exits_that_do_not_exist_are_refused(
    exits: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = refusal(["--exits", exits, "--out", str(tmp_path / "bundle")], capsys)
    assert code == 3
    assert message in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "deit_smal_patch16_224"], "near it: deit_small_patch16_224"),
        (["--model", "swin_tiny_patch4_window7_224"], "it is a SwinTransformer"),
        (["--img-size", "64"], "reads 32 x 32 pixels"),
        (["--accumulator-heads", "7"], "7 Accumulator heads do not divide the width 96"),
        (["--weights", "nowhere.safetensors"], "cannot read weights nowhere.safetensors"),
        (["--no-replace", "--parallel-adapters", "4"], "leave out --no-replace or --parallel-adapters"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused_and_leaves_nothing(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = refusal([*arguments, "--out", str(tmp_path / "bundle")], capsys)
    assert code == 3
    assert message in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [("--classes", "1", 2), ("--batch-size", "0", 1), ("--mlp-dim", "0", 1), ("--accumulator-heads", "0", 1)],
)
def test_a_size_of_too_little_is_a_usage_error(
    option: str, value: str, least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = refusal([option, value], capsys)
    assert code == 2
    assert f"Invalid value for '{option}': {value} is not in the range x>={least}" in said


def test_a_bundle_is_not_replaced_without_being_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    code, said = refusal(["--out", str(tmp_path / "bundle")], capsys)
    assert code == 3
    assert "pass --force to replace it and its adapter" in said
    assert (tmp_path / "bundle" / "manifest.json").read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_that_is_no_bundle_is_not_replaced_even_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    code, said = refusal(["--out", str(tmp_path / "home"), "--force"], capsys)
    assert code == 3
    assert "exists and is no bundle" in said
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Below a file no folder can be made, not even by root.
    (tmp_path / "file").write_text("")
    code, said = refusal(["--out", str(tmp_path / "file" / "bundle")], capsys)
    assert code == 7
    assert f"{tmp_path / 'file'} is no folder; choose another --out" in said
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_weights_that_cannot_be_fetched_name_the_other_ways(tmp_path: Path) -> None:
    done = edgefl("export", "--model", "deit_tiny_patch16_224", "--out", "bundle", cwd=tmp_path)
    assert done.returncode == 5
    assert "the weights of deit_tiny_patch16_224 cannot be fetched (LocalEntryNotFoundError)" in done.stderr
    assert "--weights FILE.safetensors, or --no-pretrained" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_and_wrong_options_do_not_wait_for_torch(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from edgefl.cli import main\n"
        "main(['export', '--help'])\n"
        "assert 'torch' not in sys.modules and 'timm' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--parallel-adapters" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_an_export_with_130_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen([*EDGEFL, "export", "--exits", "0-11"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.iterdir()) and process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
    assert process.poll() is None
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "edgefl: interrupted" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_disk_that_is_full_leaves_nothing_and_keeps_the_bundle_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); "
    run = "from edgefl.cli import main; main(['export', '--exits', '0', '--out', 'bundle', '--force'])"
    # No file may grow beyond 200 kB: the system refuses to write the weights as it does on a full disk.
    done = subprocess.run(
        [sys.executable, "-c", limit + run], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr
    assert "edgefl: cannot write bundle: File too large; free some space or choose another --out" in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["bundle", "manifest.json"]
    assert (tmp_path / "bundle" / "manifest.json").read_text() == "{}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "options"),
    [
        # 144 and 9 patches of another size; exits that skip some; few and odd classes.
        ("vit_tiny_patch16_224", "--img-size 192 --classes 2 --exits 1,3 --batch-size 3"),
        ("vit_base_patch32_224", "--img-size 96 --classes 37 --exits 0 --parallel-adapters 4"),
    ],
)
def test_other_transformers_of_timm_export_at_other_sizes(model: str, options: str, tmp_path: Path) -> None:
    # The command compares logits and gradients with torch in float64 before it gives the folder its name.
    done = edgefl("export", "--model", model, "--no-pretrained", *options.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    samples = np.zeros((1, 3, *[load(tmp_path / model).bundle.manifest.model.image_size] * 2), np.float32)
    assert [p.logits.shape for p in load(tmp_path / model).infer(samples)][-1] == (1, int(options.split()[3]))


@pytest.mark.slow
def test_the_embedded_model_exports_with_all_its_exits(tmp_path: Path) -> None:
    done = edgefl("export", "--exits", "0-11", "--json", "report.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    for name in ("parity_logits", "parity_gradient"):
        assert values(report, name).keys() == set(range(12))
        assert max(values(report, name).values()) < 1e-4
    assert values(report, "bundle_bytes")[None] <= 1.5 * values(report, "weight_bytes")[None]
    assert load(tmp_path / "glyphs_tiny_patch8_32").exits == tuple(range(12))


@pytest.mark.slow
def test_deit_small_exports_at_the_papers_setting(tmp_path: Path) -> None:
    arguments = "--model deit_small_patch16_224 --no-pretrained --seed 0 --img-size 160 --classes 100 --batch-size 10"
    done = edgefl("export", *arguments.split(), "--exits", "2,5,8,11", "--json", "-", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert values(report, "parity_gradient").keys() == {2, 5, 8, 11}
    # 21,665,664 without the final norm of 768, 96 position rows of 384 fewer at 160 pixels, and the adapter.
    assert values(report, "weight_bytes") == {None: 4 * (21_665_664 - 768 - 96 * 384 + 3_171_172)}
    assert values(report, "bundle_bytes")[None] <= 1.05 * values(report, "weight_bytes")[None]
    manifest = load(tmp_path / "deit_small_patch16_224").bundle.manifest
    planned = [manifest.costs[f"train/11/{memory}"].planned_bytes for memory in ("lean", "balanced", "fast")]
    assert planned[0] <= 65e6
    assert planned[0] <= 0.75 * planned[1]
    assert planned[1] <= 0.75 * planned[2]
    # Everything but the position rows beyond exit 11's: 3,166,564 with 13 rows.
    assert manifest.costs["train/11"].trainable_parameters == 3_166_564
