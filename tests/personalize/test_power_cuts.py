"""A power cut at any moment leaves an adapter that can be used: the one there was, or a better one."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgefl.bundle import Adapter, Bundle
from edgefl.bundle.personal import current_adapter, personal_folder, personal_path
from edgefl.core.folder_lock import locked_folder
from edgefl.personalize.score import Score, evaluate_exit
from edgefl.personalize.split import split
from edgefl.runtime.model import Model
from edgefl.runtime.step_inputs import DecodedInputs
from edgefl.samples.arrays import ArraySamples
from tests.golden_bundle import CLASSES, copy_golden, trained_adapter
from tests.personalize.toys import learnable
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent
# So slow that each of thousands of epochs is a little better than the last and is written.
OPTIONS = ["--samples", "tests.personalize.toys:learnable", "--learning-rate", "1e-5", "--epochs", "1000000"]
COMMAND = [sys.executable, "-m", "edgefl", "personalize"]
SECONDS = 120


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    opened = Bundle(copy_golden(tmp_path))
    adapter = Adapter(bundle_id=opened.manifest.bundle_id, version=1, round=1, tensors=trained_adapter())
    adapter.save(opened.folder / "adapter.safetensors", opened.manifest.adapter.header_bytes)
    return opened


def start(bundle: Bundle) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, str(bundle.folder), *OPTIONS], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def written(bundle: Bundle) -> int:
    """Return what changes whenever another personal adapter is there."""
    path = personal_path(bundle.folder, bundle.adapter())
    return path.stat().st_ino if path.exists() else 0


def changes(bundle: Bundle, times: int) -> Callable[[], bool]:
    """Return a condition: so many other personal adapters, or more, have been seen."""
    seen = [written(bundle)]

    def condition() -> bool:
        if (now := written(bundle)) != seen[-1]:
            seen.append(now)
        return len(seen) > times

    return condition


def is_writing(bundle: Bundle) -> bool:
    """Say whether there is a file that has not been renamed yet."""
    return personal_folder(bundle.folder).is_dir() and any(personal_folder(bundle.folder).glob(".*.*"))


def score(bundle: Bundle) -> Score:
    """Return the validation score of the adapter that answers."""
    validation = split(ArraySamples(*learnable(), CLASSES), 0.2, 0).validation
    model = Model(bundle, current_adapter(Bundle(bundle.folder)))
    return evaluate_exit(model, validation, DecodedInputs(model, validation), 2)


@pytest.mark.slow
def test_a_process_killed_at_any_moment_leaves_the_adapter_there_was_or_a_better_one(bundle: Bundle) -> None:
    moments = random.Random(3)  # noqa: S311  # no secret
    own, first = bundle.adapter().digest(), score(bundle)
    before = first
    for _ in range(9):
        adapters, while_writing = moments.randrange(4), moments.random() < 0.5

        kill(bundle, adapters, while_writing=while_writing)

        after = score(bundle)
        assert after == before or after.is_better_than(before)
        with locked_folder(personal_folder(bundle.folder), "personalize"):
            before = after
    assert before.is_better_than(first)
    assert bundle.adapter().digest() == own


def kill(bundle: Bundle, adapters: int, *, while_writing: bool) -> None:
    """Start a process and kill it after it has written so many adapters, or while it writes the next one."""
    reached = changes(bundle, adapters)
    with start(bundle) as process:
        wait_until(lambda: process.poll() is not None or reached(), SECONDS, f"{adapters} adapters")
        if while_writing:
            wait_until(lambda: process.poll() is not None or is_writing(bundle), SECONDS, "one is being written")
        process.kill()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_with_130_and_keeps_the_best_so_far(bundle: Bundle, number: signal.Signals) -> None:
    before, reached = score(bundle), changes(bundle, 2)
    with start(bundle) as process:
        wait_until(lambda: process.poll() is not None or reached(), SECONDS, "two adapters")
        process.send_signal(number)
        _, err = process.communicate(timeout=SECONDS)

    assert process.returncode == 130
    assert "interrupted: what was best so far is kept" in err
    assert err.splitlines()[-1] == "edgefl: interrupted"
    assert score(bundle).is_better_than(before)
    assert {path.name for path in personal_folder(bundle.folder).iterdir()} == {
        personal_path(bundle.folder, bundle.adapter()).name,
        "lock",
    }
