"""Write the README's tables from stored records: `python benchmarks/tables.py README.md`.

A table stands between `<!-- table: KIND PATH -->` and `<!-- end -->`; a test fails when one differs from its records.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_PLACE = re.compile(r"(<!-- table: (\w+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

Report = Mapping[str, Any]


def rewrite(text: str) -> str:
    """Return a text with each of its tables made again."""
    return _PLACE.sub(lambda found: found[1] + KINDS[found[2]](ROOT / found[3]) + "\n" + found[4], text)


def demo_table(path: Path) -> str:
    """Accuracy per exit of one demo, and what its clients cost."""
    report = _read(path)
    when = {"before": "before", "after": "federated", "local_only": "local only", "centralised": "centralised"}
    rows = [["exit", *when.values()]]
    values = {(r["labels"]["exit"], r["labels"]["when"]): r["value"] for r in _named(report, "accuracy")}
    exits = sorted({exit_index for exit_index, _ in values if isinstance(exit_index, int)})
    rows += [[str(e), *(_percent(values[e, key]) for key in when)] for e in exits]
    means = [sum(values[e, key] for e in exits) / len(exits) for key in when]
    rows.append(["mean", *map(_percent, means)])
    rounds = [r["value"] for r in _named(report, "round_seconds")]
    peaks = [r["value"] / 1e6 for r in _named(report, "peak_rss")]
    sent = [r["value"] / 1e6 for r in _named(report, "bytes_up")]
    (seconds,) = (r["value"] for r in _named(report, "demo_seconds"))
    return (
        f"Accuracy in %, 360 test images; {_origin(report)}.\n\n{_markdown(rows)}\n\n"
        f"Each client alone, at its own deepest exit: {_percent(values['own', 'local_only'])} (mean); "
        f"logistic regression on raw pixels, all samples in one place: "
        f"{_percent(values['none', 'logistic_regression'])}. "
        f"{len(rounds)} rounds took {sum(rounds):.0f} s, the whole demo {seconds:.0f} s; a client peaked at "
        f"{min(peaks):.0f} to {max(peaks):.0f} MB and sent {min(sent):.0f} to {max(sent):.0f} MB in all."
    )


def measure_table(path: Path) -> str:
    """Memory, latency and counted work of each measured exit."""
    report = _read(path)
    columns = {
        "peak_rss": ("memory peak, MB", 1e-6),
        "anonymous_peak": ("of it anonymous, MB", 1e-6),
        "planned_bytes": ("planned, MB", 1e-6),
        "mapped_weights": ("mapped weights, MB", 1e-6),
        "latency": ("median, ms", 1.0),
        "latency_p95": ("p95, ms", 1.0),
        "macs": ("GMAC a sample", 1e-9),
        "parameters": ("parameters, M", 1e-6),
    }
    by_exit: dict[int, dict[str, float]] = {}
    for record in report["records"]:
        if "source" not in record["labels"]:  # the paper's own, with --paper
            by_exit.setdefault(record["labels"]["exit"], {})[record["name"]] = record["value"]
    rows = [["exit", *(heading for heading, _ in columns.values())]]
    rows += [
        [str(e), *(_short(values[name] * scale) for name, (_, scale) in columns.items())]
        for e, values in sorted(by_exit.items())
    ]
    settings = report["settings"]
    baseline = next(iter(by_exit.values()))["baseline_rss"]
    step = "one local step (SGD, momentum 0.9)" if settings["mode"] == "train" else "one inference"
    knob = f", `--memory {settings['memory']}`" if "memory" in settings else ""
    return (
        f"`{settings['model']}`, {step}, batch {settings['batch']}{knob}, {settings['repetitions']} repetitions; "
        f"the imports alone peak at {baseline / 1e6:.0f} MB; {_origin(report)}.\n\n{_markdown(rows)}"
    )


def federations_table(folder: Path) -> str:
    """All stored demos, a row each."""
    rows = [["α", "seed", "exit 11", "mean of 12 exits", "local only, own exit", "centralised, exit 11", "seconds"]]
    reports = [_read(path) for path in sorted(folder.glob("demo_*.json"))]
    for report in reports:
        values = {(r["labels"]["exit"], r["labels"]["when"]): r["value"] for r in _named(report, "accuracy")}
        after = [value for (_, when), value in values.items() if when == "after"]
        (seconds,) = (r["value"] for r in _named(report, "demo_seconds"))
        rows.append(
            [
                str(report["settings"]["alpha"]),
                str(report["settings"]["seed"]),
                _percent(values[11, "after"]),
                _percent(sum(after) / len(after)),
                _percent(values["own", "local_only"]),
                _percent(values[11, "centralised"]),
                f"{seconds:.0f}",
            ]
        )
    return (
        "`edgefl demo --alpha A --seed S`, accuracy in %, one run each (360 test images: one image is 0.3); "
        f"{_origin(reports[0])}.\n\n{_markdown(rows)}"
    )


def serve_table(path: Path) -> str:
    """What a loaded service answers in time, and how deep."""
    report = _read(path)
    columns = {
        "inside_deadline": ("inside the deadline, %", 100.0),
        "answered": ("answer or status, %", 100.0),
        "mean_exit": ("mean exit", 1.0),
        "latency": ("median, ms", 1.0),
        "latency_p99": ("p99, ms", 1.0),
        "mean_batch": ("mean batch", 1.0),
    }
    rows = [["load", *(heading for heading, _ in columns.values())]]
    for load in dict.fromkeys(r["labels"]["load"] for r in _named(report, "inside_deadline")):
        of_load = {r["name"]: r for r in report["records"] if r.get("labels", {}).get("load") == load}
        rows.append([load, *(_with_range(of_load[name], scale) for name, (_, scale) in columns.items())])
    (alone,), (capacity,), (deadline,) = (_named(report, name) for name in ("latency_alone", "capacity", "deadline"))
    settings = report["settings"]
    return (
        f"`{settings['model']}`, {settings['image_size']} x {settings['image_size']}, {settings['requests']} requests "
        f"a load in {settings['rounds']} rounds (in brackets the least and the most of a round), which arrive as a "
        f"Poisson process from another process of the same machine; exit 11 alone takes "
        f"{alone['value']:.0f} ms ({alone['min']:.0f} to {alone['max']:.0f}, {alone['repetitions']} requests), the "
        f"deadline is {deadline['value']:.0f} ms ({deadline['min']:.0f} to {deadline['max']:.0f}), a load of 1 is "
        f"{capacity['value']:.1f} requests a second ({capacity['min']:.1f} to {capacity['max']:.1f}); "
        f"{_origin(report)}.\n\n"
        f"{_markdown(rows)}"
    )


def policy_text(path: Path) -> str:
    """What stopping at the first exit that is sure enough is worth."""
    report = _read(path)
    values = {r["name"]: r for r in report["records"] if r["name"] != "decision_ms"}
    choose = next(r for r in _named(report, "decision_ms") if r["labels"]["what"] == "choose")
    loss, ratio = values["accuracy_loss"], values["cost_ratio"]
    return (
        f"Stopping at the first exit that is sure enough takes {ratio['value']:.2f} of the time of always answering at "
        f"exit 11 ({ratio['min']:.2f} to {ratio['max']:.2f}) and loses {100 * loss['value']:.2f} points of accuracy "
        f"({100 * loss['min']:.1f} to {100 * loss['max']:.1f}), on the demo's {report['settings']['samples']} held-out "
        f"digits: calibrated on one half and judged on the other, {ratio['repetitions']} halves. A decision "
        f"takes {1000 * choose['value']:.0f} us (median of {choose['repetitions']}); {_origin(report)}."
    )


def personalize_table(path: Path) -> str:
    """What cached features and a client token save."""
    report = _read(path)
    heading = ["exit", "cached epochs: speed-up", "client token: time", "client token: peak below, MB"]
    rows = [heading]
    for place in dict.fromkeys((r["labels"]["exit"], r["labels"]["bundle"]) for r in report["records"]):
        found = {
            (r["name"], r["labels"]["against"]): r
            for r in report["records"]
            if (r["labels"]["exit"], r["labels"]["bundle"]) == place and "against" in r["labels"]
        }
        speedup, time = found["epoch_speedup", "uncached"], found["epoch_ms_ratio", "accumulator"]
        less = found["peak_rss_less", "accumulator"]
        cells = [f"{each['value']:.2f} ({each['min']:.2f} to {each['max']:.2f})" for each in (speedup, time)]
        exit_index, bundle = place
        name = str(exit_index) if bundle == "replace" else f"{exit_index}, `--no-replace`"
        rows.append([name, *cells, f"{less['value'] / 1e6:.1f}"])
    settings = report["settings"]
    return (
        f"`{settings['model']}`, {settings['image_size']} x {settings['image_size']}, batch {settings['batch']}, "
        f"`--memory {settings['memory']}`, decoded samples, {settings['repetitions']} rounds in which sides take "
        f"turns: median (least to most); the client token against the whole Accumulator; {_origin(report)}.\n\n"
        f"{_markdown(rows)}"
    )


KINDS: dict[str, Callable[[Path], str]] = {
    "demo": demo_table,
    "measure": measure_table,
    "federations": federations_table,
    "serve": serve_table,
    "policy": policy_text,
    "personalize": personalize_table,
}


def _read(path: Path) -> Report:
    report: Report = json.loads(path.read_text(encoding="utf-8"))
    return report


def _named(report: Report, name: str) -> list[Report]:
    return [record for record in report["records"] if record["name"] == name]


def _origin(report: Report) -> str:
    device = report["device"]
    return f"{device['processor']}, {device['cores']} cores, {device['memory_bytes'] / 2**30:.0f} GiB"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _with_range(record: dict[str, Any], scale: float) -> str:
    text = _short(record["value"] * scale)
    if "min" not in record:
        return text
    return f"{text} ({_short(record['min'] * scale)} to {_short(record['max'] * scale)})"


def _markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(rewrite(Path(name).read_text(encoding="utf-8")), encoding="utf-8")
