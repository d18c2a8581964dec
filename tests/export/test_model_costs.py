"""Costs of a model without a bundle are those that its bundle would have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgefl.bundle import Bundle
from edgefl.cli import main
from edgefl.plan.models import ModelDescription, costs_of_model
from edgefl.plan.steps import training_costs

EMBEDDED = ["--model", "glyphs_tiny_patch8_32", "--exits", "0", "--classes", "3", "--mlp-dim", "16"]


@pytest.mark.slow
def test_they_are_the_costs_in_the_manifest_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--parallel-adapters", "4", "--batch-size", "5", "--out", "bundle"]
    main(["export", *EMBEDDED, *options, "--json", "report.json"])
    manifest = Bundle(Path("bundle")).manifest

    counted = costs_of_model(
        ModelDescription(
            name="glyphs_tiny_patch8_32",
            exits=(0,),
            batch=5,
            classes=3,
            accumulator_heads=12,
            image_size=None,
            mlp_dim=16,
            parallel_adapters=4,
        )
    )

    assert counted.keys() == {"train/0/lean", "train/0/balanced", "train/0/fast"}
    assert counted == {name: cost for name, cost in training_costs(manifest, [0]).items() if name in counted}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "report.json"]


@pytest.mark.slow
def test_a_model_is_planned_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", *EMBEDDED, "--memory-budget", "100MB", "--json", "-"])

    out, err = capsys.readouterr()
    report = json.loads(out)
    assert [record["value"] for record in report["records"] if record["name"] == "planned_exit"] == [0]
    assert report["records"][0]["labels"] == {"memory_budget": 100_000_000, "memory": "fast", "limit": "none"}
    assert report["settings"]["model"] == "glyphs_tiny_patch8_32"
    assert (report["settings"]["classes"], report["settings"]["mlp_dim"]) == (3, 16)
    assert "glyphs_tiny_patch8_32, one local step, batch 10" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "deit_smal_patch16_224"], "timm has no model 'deit_smal_patch16_224'; near it: deit_small_"),
        (["--model", "deit_tiny_patch16_224", "--img-size", "161"], "pass --img-size with a multiple of 16"),
        (
            ["--model", "deit_tiny_patch16_224", "--accumulator-heads", "7"],
            "pass --accumulator-heads with a number that does",
        ),
        (["--model", "deit_tiny_patch16_224", "--exits", "12"], "exit 12 does not exist"),
    ],
)
def test_a_model_that_cannot_be_exported_ends_with_3(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["plan", *arguments])

    assert end.value.code == 3
    assert said in capsys.readouterr().err
