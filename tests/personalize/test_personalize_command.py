"""`edgefl personalize` as a user meets it: what it keeps, what it leaves alone, what it says and refuses."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from edgefl.bundle import Adapter, Bundle
from edgefl.bundle.personal import current_adapter, personal_files, personal_folder, personal_path
from edgefl.core.folder_lock import locked_folder
from edgefl.errors import (
    AdapterLayoutError,
    BadInputError,
    EdgeFLError,
    ExitsError,
    SamplesError,
    StorageError,
    TensorFileError,
)
from edgefl.personalize.caches import opened_caches
from edgefl.personalize.command import personalize
from edgefl.personalize.kept import held_folder
from edgefl.personalize.kept import save as save_personal
from edgefl.personalize.score import evaluate
from edgefl.personalize.split import split
from edgefl.personalize.trained import trained_tensors
from edgefl.personalize.tuning import tune
from edgefl.runtime.gradients import Gradients
from edgefl.runtime.local_training import LocalPlan
from edgefl.runtime.model import Model
from edgefl.samples.arrays import ArraySamples
from tests.golden_bundle import CLASSES, EXITS, copy_golden, trained_adapter
from tests.personalize.toys import learnable

SAMPLES = ["--samples", "tests.personalize.toys:learnable"]
RATES = {"accumulator": "0.003", "parallel-adapters": "1", "client-token": "0.3"}
GOOD = [*SAMPLES, "--learning-rate", RATES["accumulator"]]
BAD = [*SAMPLES, "--learning-rate", "0.3"]
PREFIXES = {
    "accumulator": ("accumulator.", "head."),
    "parallel-adapters": ("parallel_adapters.",),
    "client-token": ("accumulator.client_token",),
}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Return a bundle whose global adapter has been trained for something else."""
    opened = Bundle(copy_golden(tmp_path))
    save(opened, opened.folder / "adapter.safetensors", trained_adapter())
    return opened


def save(bundle: Bundle, path: Path, tensors: Any, version: int = 1, owner: str | None = None) -> None:
    path.parent.mkdir(exist_ok=True)
    adapter = Adapter(bundle_id=owner or bundle.manifest.bundle_id, version=version, round=version, tensors=tensors)
    adapter.save(path, bundle.manifest.adapter.header_bytes)


def run(bundle: Bundle, *arguments: str | Path) -> None:
    personalize.main([str(argument) for argument in (bundle.folder, *arguments)], standalone_mode=False)


def reported(bundle: Bundle, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[Any, Any]:
    """Run the command; return its records by name, by name and label where there is one, by all labels of a score."""
    run(bundle, *arguments, "--json", "-")
    records = {}
    for record in json.loads(capsys.readouterr().out)["records"]:
        labels = record.get("labels", {})
        records[record["name"], *labels.values()] = record["value"]
    return records


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("what", RATES)
def test_training_helps_and_only_what_was_asked_for_has_changed(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    before = contents(bundle.folder)

    records = reported(bundle, capsys, *SAMPLES, "--what", what, "--learning-rate", RATES[what])

    assert records["kept", "personal"] == 1
    score = {adapter: (records["accuracy", 2, adapter], -records["loss", 2, adapter]) for adapter in ("global", "kept")}
    assert score["kept"] > score["global"]
    own, personal = bundle.adapter(), current_adapter(bundle)
    changed = {name for name, array in own.tensors.items() if not np.array_equal(array, personal.tensors[name])}
    assert changed
    assert all(name.startswith(PREFIXES[what]) for name in changed)
    assert (personal.version, personal.round) == (own.version, own.round) == (1, 1)
    after = contents(bundle.folder)
    assert after.keys() - before.keys() == {f"personal/{personal_path(bundle.folder, own).name}", "personal/lock"}
    assert all(after[name] == content for name, content in before.items())


def test_the_report_is_what_the_adapters_come_to(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    records = reported(bundle, capsys, *GOOD, "--seed", "4", "--epochs", "3")

    validation = split(ArraySamples(*learnable(), CLASSES), 0.2, 4).validation
    for name, adapter in (("global", bundle.adapter()), ("kept", current_adapter(bundle))):
        for e, score in evaluate(Model(bundle, adapter), validation).items():
            assert records["accuracy", e, name] == score.accuracy
            assert records["loss", e, name] == pytest.approx(score.loss, rel=1e-5)
    assert (records["num_examples", "training"], records["num_examples", "validation"]) == (48, 12)
    assert (records["epochs",], records["best_epoch",]) == (3, 3)
    assert records["steps",] == 3 * 5  # 48 samples, ten at once
    trained = [array for name, array in bundle.adapter().tensors.items() if name.startswith(PREFIXES["accumulator"])]
    num_bytes = 4 * sum(array.size for array in trained)
    assert [records["trained_bytes", kind] for kind in ("value", "gradient", "optimizer")] == [num_bytes, num_bytes, 0]
    # cls and patches of a sample are 5 tokens of width 24, of 4 bytes each.
    assert records["feature_cache",] == 60 * 5 * 24 * 4
    assert 0 < records["epoch_ms",] <= 1000 * records["train_seconds",]


@pytest.fixture
def learnt(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> Bundle:
    """Return a bundle whose global adapter has learnt the samples already."""
    run(bundle, *GOOD)
    save(bundle, bundle.folder / "adapter.safetensors", current_adapter(bundle).tensors)
    run(bundle, "--undo")
    capsys.readouterr()
    return bundle


@pytest.mark.parametrize("rate", ["0.3", "1e9"], ids=["worse", "not finite"])
def test_the_global_adapter_is_kept_where_training_makes_it_worse(
    learnt: Bundle, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, rate: str
) -> None:
    before = contents(learnt.folder)

    records = reported(learnt, capsys, *SAMPLES, "--learning-rate", rate)

    assert records["kept", "global"] == 1
    assert contents(learnt.folder) == before
    for e in EXITS:
        assert records["accuracy", e, "kept"] == records["accuracy", e, "global"]
    assert ("training diverged" in caplog.text) == (rate == "1e9")


def test_training_ends_after_as_many_epochs_as_it_is_to_wait(
    learnt: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    records = reported(learnt, capsys, *BAD, "--patience", "2", "--epochs", "50")

    assert (records["epochs",], records["best_epoch",]) == (2, 0)


def test_what_is_kept_is_the_best_epoch_and_not_the_last(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*SAMPLES, "--learning-rate", "0.03", "--patience", "50"]
    best = reported(bundle, capsys, *options, "--epochs", "9")["best_epoch",]
    found = contents(personal_folder(bundle.folder))
    run(bundle, "--undo")
    capsys.readouterr()

    reported(bundle, capsys, *options, "--epochs", str(best))

    assert 0 < best < 9
    assert contents(personal_folder(bundle.folder)) == found


def plan(bundle: Bundle, what: Any, epochs: int = 2) -> LocalPlan:
    return LocalPlan(
        exit_index=2, draw="own", seed=0, optimizer="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.0,
        clip=0.0, epochs=epochs, batch_size=10, trained=trained_tensors(bundle, what),
    )  # fmt: skip


def test_a_client_token_is_all_that_has_memory_for_a_value_and_a_gradient(bundle: Bundle) -> None:
    personal_folder(bundle.folder).mkdir()
    own, parts = bundle.adapter(), split(ArraySamples(*learnable(), CLASSES), 0.2, 0)
    model, found = Model(bundle, own), list[tuple[set[str], list[dict[str, int]]]]()
    gc.collect()
    others = {id(value) for value in gc.get_objects() if type(value) is Gradients}

    def look(*_: object) -> None:
        writable = {name for name, array in model.adapter.items() if array.flags.writeable}
        buffers = [value for value in gc.get_objects() if type(value) is Gradients and id(value) not in others]
        found.append((writable, [{name: array.nbytes for name, array in each.arrays.items()} for each in buffers]))

    outcome = tune(model, own, parts, plan(bundle, "client-token"), patience=3, on_epoch=look)

    assert found == [({"accumulator.client_token"}, [{"accumulator.client_token": 24 * 4}])] * 2
    assert (outcome.value_bytes, outcome.buffer_bytes) == (24 * 4, 24 * 4)


class Counted(ArraySamples):
    """Samples that count how often each was read."""

    def __init__(self) -> None:
        super().__init__(*learnable(), CLASSES)
        self.times = [0] * 60

    def read(self, indices: Sequence[int]) -> list[np.ndarray[Any, Any]]:
        """Count and return."""
        for index in indices:
            self.times[index] += 1
        return super().read(indices)


# All exits are validated before and after, one exit before and after each epoch.
@pytest.mark.parametrize(
    ("budget", "training", "validation"), [(10**6, 1, 2 + 1), (0, 3, 2 + 1 + 3)], ids=["kept", "not kept"]
)
def test_what_is_kept_of_samples_is_not_made_again_in_later_epochs(
    bundle: Bundle, budget: int, training: int, validation: int
) -> None:
    own, samples = bundle.adapter(), Counted()
    model, parts = Model(bundle, own), split(samples, 0.2, 0)

    with held_folder(bundle) as folder, opened_caches(folder, budget, parts) as caches:
        outcome = tune(model, own, parts, plan(bundle, "accumulator", epochs=3), patience=3, caches=caches)

    assert outcome.kept == "personal"
    assert sorted(samples.times) == [training] * 48 + [validation] * 12


def test_undo_removes_the_personal_adapter_and_says_whether_there_was_one(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    run(bundle, "--undo")
    assert "there is no " in capsys.readouterr().out
    assert not personal_folder(bundle.folder).exists()
    run(bundle, *GOOD)
    assert current_adapter(bundle).digest() != bundle.adapter().digest()
    capsys.readouterr()

    run(bundle, "--undo", "--json", "-")

    out, err = capsys.readouterr()
    assert "removed " in err
    report = json.loads(out)
    assert report["settings"]["removed"]
    assert [record["labels"] for record in report["records"]] == [{"adapter": "global"}]
    assert current_adapter(bundle).digest() == bundle.adapter().digest()


def test_a_second_run_goes_on_from_all_of_the_personal_adapter(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    first = reported(bundle, capsys, *GOOD, "--epochs", "2")
    before = {name: np.array(array) for name, array in current_adapter(bundle).tensors.items()}

    second = reported(bundle, capsys, *SAMPLES, "--what", "client-token", "--learning-rate", "0.1", "--epochs", "2")

    assert second["loss", 2, "global"] == first["loss", 2, "global"]
    assert second["best_epoch",] == 2
    assert second["loss", 2, "kept"] < first["loss", 2, "kept"] < first["loss", 2, "global"]
    after = current_adapter(bundle).tensors
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {"accumulator.client_token"}


def test_a_personal_adapter_stays_where_nothing_is_better(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    first = reported(bundle, capsys, *GOOD)
    before = contents(bundle.folder)

    second = reported(bundle, capsys, *BAD)

    assert contents(bundle.folder) == before
    assert (second["kept", "personal"], second["epochs",], second["best_epoch",]) == (1, 3, 0)
    for e in EXITS:
        assert second["accuracy", e, "kept"] == first["accuracy", e, "kept"]
        assert second["loss", e, "kept"] == first["loss", e, "kept"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_tensors_that_no_device_would_take_are_not_kept(bundle: Bundle, value: float) -> None:
    personal_folder(bundle.folder).mkdir()
    tensors = trained_adapter()
    tensors["parallel_adapters.up_bias"][2, 0] = value  # which no answer at exits 0 and 1 shows

    assert not save_personal(bundle, bundle.adapter(), tensors)

    assert personal_files(bundle.folder) == []


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ("", "at this exit it is no better than the global adapter"),
        ("0" * 16, "it was made from another global adapter"),
    ],
    ids=["worse", "stale"],
)
def test_a_personal_adapter_that_is_not_better_is_removed_and_training_begins_with_the_global_one(
    bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    other: str,
    reason: str,
) -> None:
    expected = reported(bundle, capsys, *GOOD)
    run(bundle, "--undo")
    capsys.readouterr()
    worse = {name: np.zeros_like(array) for name, array in trained_adapter().items()}
    worse["head.mlp.fc2.bias"][4] = 50
    path = personal_path(bundle.folder, bundle.adapter())
    save(bundle, path.with_stem(other or path.stem), worse)

    records = reported(bundle, capsys, *GOOD)

    assert f"is removed: {reason}" in caplog.text
    timed = ("epoch_ms", "train_seconds", "peak_rss")
    assert {key: v for key, v in records.items() if key[0] not in timed} == {
        key: v for key, v in expected.items() if key[0] not in timed
    }


def test_a_global_adapter_that_is_replaced_meanwhile_makes_the_personal_one_stale_and_that_is_said(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bundle.adapter()

    def replacing() -> Any:
        other = {name: np.float32(1.5) * array for name, array in trained_adapter().items()}
        save(bundle, bundle.folder / "adapter.safetensors", other, version=2)
        return learnable()

    monkeypatch.setattr("tests.personalize.toys.learnable", replacing)

    run(bundle, *GOOD)

    assert "the global adapter was replaced meanwhile, so the personal one is not used" in capsys.readouterr().err
    assert current_adapter(bundle).version == 2
    assert personal_files(bundle.folder) == [personal_path(bundle.folder, before)]


def test_what_a_power_cut_left_is_cleared_away(bundle: Bundle) -> None:
    personal_folder(bundle.folder).mkdir()
    (personal_folder(bundle.folder) / ".adapter.safetensors.x1y2").write_bytes(b"half")

    run(bundle, *SAMPLES, "--epochs", "1")

    own = personal_path(bundle.folder, bundle.adapter()).name
    assert contents(personal_folder(bundle.folder)).keys() <= {"lock", own}


def refused(bundle: Bundle, error: type[EdgeFLError], reason: str, *arguments: str | Path) -> None:
    """Run the command, which must fail and change nothing but the lock."""
    before = contents(bundle.folder)
    with pytest.raises(error, match=reason):
        run(bundle, *arguments)
    after = contents(bundle.folder)
    after.pop("personal/lock", None)
    assert after == before


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("nine", "there are 9 samples, expected at least 10"),
        ("too_large", r"samples are of shape \(1, 20, 20\), expected \(1, 16, 16\)"),
        ("of_ten_classes", "labels run from 0 to 9, the model has classes 0 to 4"),
        ("none", "has no attribute 'none'"),
    ],
)
def test_samples_that_cannot_be_used_are_refused(bundle: Bundle, function: str, reason: str) -> None:
    refused(bundle, SamplesError, reason, "--samples", f"tests.personalize.toys:{function}")


def test_ten_samples_are_enough(bundle: Bundle) -> None:
    run(bundle, "--samples", "tests.personalize.toys:ten", "--epochs", "1", "--exit", "0")


def test_the_personal_adapter_of_another_bundle_is_refused_and_can_be_undone(bundle: Bundle) -> None:
    save(bundle, personal_path(bundle.folder, bundle.adapter()), trained_adapter(), owner="b" * 64)

    refused(bundle, AdapterLayoutError, "belongs to bundle 'b{64}'.*--undo` removes it", *SAMPLES)

    run(bundle, "--undo")
    run(bundle, *SAMPLES, "--epochs", "1")


def test_a_personal_adapter_that_is_damaged_is_refused_and_can_be_undone(bundle: Bundle) -> None:
    personal_folder(bundle.folder).mkdir()
    personal_path(bundle.folder, bundle.adapter()).write_bytes(b"short")

    refused(bundle, TensorFileError, "too short.*--undo` removes it", *SAMPLES)

    run(bundle, "--undo")
    run(bundle, *SAMPLES, "--epochs", "1")


def test_an_exit_the_bundle_does_not_have_is_refused(bundle: Bundle) -> None:
    refused(bundle, ExitsError, "exit 3 does not exist: bundle bundle has the exits 0-2", *SAMPLES, "--exit", "3")


def test_parallel_adapters_that_are_not_there_are_refused_by_name(bundle: Bundle) -> None:
    names = [name for name in bundle.manifest.adapter.tensors if not name.startswith("parallel_adapters.")]
    bundle.manifest.adapter.tensors[:] = names

    with pytest.raises(BadInputError, match=r"nothing to train for --what parallel-adapters: .*--parallel-adapters"):
        trained_tensors(bundle, "parallel-adapters")


@pytest.mark.parametrize("arguments", [SAMPLES, ["--undo"]], ids=["train", "undo"])
def test_two_at_once_are_refused(bundle: Bundle, arguments: list[str]) -> None:
    refused = pytest.raises(StorageError, match="in use by another edgefl personalize; stop that one or personalize a")
    with locked_folder(personal_folder(bundle.folder), "personalize"), refused:
        run(bundle, *arguments)


def test_samples_are_needed_for_everything_but_undo(bundle: Bundle) -> None:
    with pytest.raises(click.UsageError, match="Missing option '--samples'"):
        run(bundle)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--what", "head"), ("--epochs", "0"), ("--patience", "0"), ("--batch-size", "0"), ("--learning-rate", "0"),
        ("--learning-rate", "nan"), ("--momentum", "1"), ("--validation-share", "0"), ("--validation-share", "0.6"),
        ("--memory", "huge"), ("--feature-cache", "1MB,2MB"), ("--seed", "-1"), ("--exit", "-1"),
    ],
)  # fmt: skip
def test_an_option_that_makes_no_sense_is_a_usage_error(bundle: Bundle, option: str, value: str) -> None:
    with pytest.raises(click.BadParameter):
        run(bundle, *SAMPLES, option, value)

    assert not personal_folder(bundle.folder).exists()
