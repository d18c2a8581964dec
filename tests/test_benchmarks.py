"""The benchmarks run and write the records that docs/reports.md lists (benchmarks/)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.comparison import Measured, Side, check_same_answers, ratio_records
from benchmarks.infer import inference_sides
from benchmarks.products import peak_macs_per_second, product_name
from benchmarks.setting import Setting
from benchmarks.sides import Task
from benchmarks.worker import Worker
from edgefl.bundle import Bundle
from edgefl.errors import EdgeFLError, ParityError
from tests.golden_bundle import CLASSES, GOLDEN, copy_golden

ROOT = Path(__file__).parent.parent
REPORTS = (ROOT / "docs" / "reports.md").read_text(encoding="utf-8")
TINY = ["--model", "glyphs_tiny_patch8_32", "--img-size", "32", "--batch-size", "2", "--repetitions", "1"]
SETTING = Setting(model="glyphs_tiny_patch8_32", image_size=32, classes=10, batch=2)
KNOBS = ("fast", "balanced", "lean")

Labels = frozenset[tuple[str, Any]]


def test_a_ratio_is_the_median_of_the_rounds_and_not_of_the_sides() -> None:
    edgefl = _measured([1.0, 4.0, 9.0], 30)
    other = _measured([2.0, 2.0, 30.0], 120)

    time, memory = ratio_records("step_ms_ratio", edgefl, other, "torch")

    # 1/2, 4/2 and 9/30; the medians alone would be 4/2.
    assert (time.min, time.value, time.max) == (0.3, 0.5, 2.0)
    assert memory.value == 30 / 120
    assert time.labels == memory.labels == {"exit": 5, "memory": "lean", "against": "torch"}


def test_the_matrix_peak_is_that_of_the_fastest_product_ever_made() -> None:
    shapes = [(10, 20, 30), (10, 20, 40)]  # 6,000 and 8,000 multiply-accumulates
    seconds = {product_name(shape, constant=constant): [1.0, 1.0] for shape in shapes for constant in (False, True)}
    seconds[product_name(shapes[0], constant=True)] = [1.0, 0.5]

    assert peak_macs_per_second(shapes, seconds) == 6_000 / 0.5


def test_a_side_whose_process_ends_is_named(tmp_path: Path) -> None:
    task = Task(kind="edgefl", mode="infer", setting=SETTING, exit_index=3, threads=1, path=str(tmp_path))

    with Worker(task) as worker, pytest.raises(EdgeFLError, match="side edgefl, infer at exit 3, ended early"):
        worker.turn()


@pytest.mark.slow
def test_sides_that_compute_different_things_are_refused() -> None:
    torch = Task(kind="torch", mode="infer", setting=SETTING, exit_index=0, threads=1)
    other = Task(kind="torch", mode="infer", setting=_with_seed(1), exit_index=0, threads=1)

    with pytest.raises(ParityError, match="other at exit 0: logits is off by"):
        check_same_answers({"torch": Side(labels={}, task=torch), "other": Side(labels={}, task=other)})


@pytest.mark.slow
def test_the_training_benchmark_writes_its_records(tmp_path: Path) -> None:
    records = _run("train_step", tmp_path, "--exits", "0", "--cache", str(tmp_path / "cache"))

    sides = {("edgefl", knob) for knob in KNOBS} | {("torch", "none"), ("one-graph", "none")}
    of_sides = {_labels(side=side, exit=0, memory=memory) for side, memory in sides}
    of_ratios = {_labels(against=peer, exit=0, memory=knob) for peer in ("torch", "one-graph") for knob in KNOBS}
    assert records["step_ms"] == records["peak_rss"] == records["baseline_rss"] == of_sides
    assert records["step_ms_ratio"] == records["peak_rss_ratio"] == of_ratios
    assert records["matmul_fraction"] == {_labels(exit=0, memory=knob) for knob in KNOBS}
    assert records["load_elsewhere"] == {_labels(exit=0)}
    # (batch 2) x (16 patches and the CLS token) rows, width 96, FFN 192
    products = {"34x96x288", "34x96x96", "34x96x192", "34x192x96"}
    products |= {f"{product} constant" for product in products}
    assert records["matmul_ms"] == {_labels(exit=0, product=product) for product in products}


@pytest.mark.slow
def test_the_inference_benchmark_writes_its_records(tmp_path: Path) -> None:
    records = _run("infer", tmp_path, "--exits", "0", "--cache", str(tmp_path / "cache"))

    programs = [(program, memory) for program in ("infer", "anytime") for memory in ("balanced", "fast")]
    ways, peers = [*programs, ("stand-alone", "none")], ("torch", "one-graph")
    of_sides = {_labels(side="edgefl", exit=0, memory=memory, program=program) for program, memory in ways}
    of_sides |= {_labels(side=peer, exit=0, memory="none") for peer in peers}
    of_ratios = {
        _labels(against=other, exit=0, memory=memory, program=program)
        for program, memory in ways
        for other in (*peers, "stand-alone")
        if program != other
    }
    assert records["infer_ms"] == records["peak_rss"] == records["baseline_rss"] == of_sides
    assert records["infer_ms_ratio"] == records["peak_rss_ratio"] == of_ratios
    assert records["load_elsewhere"] == {_labels(exit=0)}


def test_anytime_is_compared_at_the_deepest_exit_alone() -> None:
    bundle = Bundle(GOLDEN)
    *shallower, deepest = bundle.manifest.exits

    with_anytime = [e for e in bundle.manifest.exits if "anytime" in inference_sides(SETTING, e, 1, bundle, GOLDEN)]

    assert shallower
    assert with_anytime == [deepest]


@pytest.mark.slow
def test_the_personalization_benchmark_writes_its_records(tmp_path: Path) -> None:
    records = _run("personalize", tmp_path, "--exits", "0,1", "--epochs", "2", "--steps", "4")

    places = [{"exit": 0, "bundle": "replace"}, {"exit": 1, "bundle": "replace"}, {"exit": 1, "bundle": "no-replace"}]
    cached = {"what": "accumulator", "cached": True}
    token = {"what": "client-token", "cached": True}
    sides = [cached, {"what": "accumulator", "cached": False}, token]
    of_sides = {_labels(**place, **side) for place in places for side in sides}
    of_ratios = {_labels(**place, **token, against="accumulator") for place in places}
    of_ratios |= {_labels(**place, **cached, against="uncached") for place in places}
    assert records["epoch_ms"] == records["peak_rss"] == of_sides
    assert records["epoch_ms_ratio"] == records["epoch_speedup"] == records["peak_rss_less"] == of_ratios
    kinds = ("value", "gradient", "optimizer")
    assert records["trained_bytes"] == {labels | {("kind", kind)} for labels in of_sides for kind in kinds}


@pytest.mark.slow
def test_the_export_benchmark_writes_its_records(tmp_path: Path) -> None:
    records = _run("export", tmp_path, "--exits", "0")

    plain = {"export_seconds", "peak_rss", "bundle_bytes", "weight_bytes"}
    assert records == {**{name: {_labels()} for name in plain}, "bundle_bytes_ratio": {_labels(against="weights")}}


@pytest.mark.slow
def test_the_service_s_benchmark_writes_its_records(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)

    records = _run_plainly("serve", tmp_path, "--bundle", str(bundle), "--requests", "20")

    of_loads = {_labels(load=load) for load in ("0.3", "0.7", "2.0")}
    assert all(records[name] == of_loads for name in ("requests", "inside_deadline", "answered"))
    # So small a model has so short a deadline that a busy machine may answer nobody.
    assert all(records[name] <= of_loads for name in ("mean_exit", "latency", "latency_p99", "mean_batch"))
    assert records["latency_alone"] == records["capacity"] == {_labels(exit=2)}
    assert records["deadline"] == {_labels()}
    assert of_loads == {frozenset(each for each in labels if each[0] == "load") for labels in records["status"]}


@pytest.mark.slow
def test_the_policy_s_benchmark_writes_its_records(tmp_path: Path) -> None:
    bundle, random = copy_golden(tmp_path), np.random.default_rng(0)
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "adapter.safetensors").write_bytes((bundle / "adapter.safetensors").read_bytes())
    for label in range(CLASSES):
        folder = tmp_path / "held-out" / str(label)
        folder.mkdir(parents=True)
        for number in range(8):
            Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{number}.png")

    records = _run_plainly("policy", tmp_path, "--demo", str(tmp_path), "--halves", "2")

    names = ("deepest_accuracy", "policy_accuracy", "accuracy_loss", "deepest_cost_ms", "policy_cost_ms", "cost_ratio")
    assert all(records[name] == {_labels()} for name in (*names, "mean_exit"))
    assert records["decision_ms"] == {_labels(what="choose"), _labels(what="stop")}


def _run(script: str, folder: Path, *options: str) -> dict[str, set[Labels]]:
    """Run a benchmark on the embedded model and return the labels of its records by their name."""
    return _run_plainly(script, folder, *TINY, *options)


def _run_plainly(script: str, folder: Path, *options: str) -> dict[str, set[Labels]]:
    path = folder / "report.json"
    command = [sys.executable, "-m", f"benchmarks.{script}", *options, "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["command"] == f"benchmarks/{script}.py"
    found: dict[str, set[Labels]] = {}
    for record in report["records"]:
        assert f"`{record['name']}`" in REPORTS
        found.setdefault(record["name"], set()).add(_labels(**record.get("labels", {})))
    return found


def _labels(**labels: Any) -> Labels:
    return frozenset(labels.items())


def _measured(seconds: list[float], peak: int) -> Measured:
    labels = {"side": "edgefl", "exit": 5, "memory": "lean"}
    return Measured(labels=labels, seconds={"step": seconds}, peak_rss=peak, baseline_rss=10)


def _with_seed(seed: int) -> Setting:
    return Setting(model=SETTING.model, image_size=32, classes=10, batch=2, seed=seed)
