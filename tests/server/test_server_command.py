"""`edgefl server run` refuses what cannot work before it starts anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgefl.bundle import Bundle
from edgefl.core.folder_lock import locked_folder
from edgefl.errors import BadInputError, EdgeFLError, NotABundleError, RefusedError, StorageError
from edgefl_server.command import server
from edgefl_server.host.state import StateFolder
from edgefl_server.rounds.checkpoint import Checkpoint, save_checkpoint
from tests.toy_bundle import write_toy_bundle

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_toy_bundle(tmp_path / "toy")


def run(bundle: Path, *options: str) -> Result:
    state = bundle.parent / "state"
    return CliRunner().invoke(server, ["run", "--bundle", str(bundle), "--state", str(state), "--port", "0", *options])


def finished(bundle: Path, rounds: int) -> StateFolder:
    """Leave the state of a server that has done so many rounds."""
    state = StateFolder(bundle.parent / "state")
    state.path.mkdir()
    save_checkpoint(state.checkpoint, Checkpoint(round=rounds, adapter=Bundle(bundle).adapter(), momentum={}))
    return state


@pytest.mark.parametrize(
    ("options", "refusal", "exit_code"),
    [
        (["--rounds", "0"], BadInputError, 3),
        (["--rounds", "1", "--quorum", "2"], BadInputError, 3),
        (["--rounds", "1", "--host", "0.0.0.0"], RefusedError, 4),  # noqa: S104  # what is refused
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    bundle: Path, options: list[str], refusal: type[EdgeFLError], exit_code: int
) -> None:
    result = run(bundle, *options)
    assert isinstance(result.exception, refusal)
    assert result.exception.exit_code == exit_code
    assert not (bundle.parent / "state").exists()


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    assert isinstance(run(tmp_path, "--rounds", "1").exception, NotABundleError)


def test_a_choice_that_does_not_exist_is_a_usage_error(bundle: Path) -> None:
    assert run(bundle, "--rounds", "1", "--optimizer", "lion").exit_code == 2


def test_a_state_folder_in_use_is_refused(bundle: Path) -> None:
    with locked_folder(bundle.parent / "state", "server"):
        assert isinstance(run(bundle, "--rounds", "1").exception, StorageError)


def test_a_run_whose_rounds_are_done_says_so_and_where_the_adapter_is(bundle: Path) -> None:
    state = finished(bundle, rounds=3)
    result = run(bundle, "--rounds", "3")
    assert result.exit_code == 0
    assert "3 rounds are done already" in result.stdout
    assert str(state.adapter) in result.stdout


def test_with_the_report_on_standard_output_nothing_else_is_there(bundle: Path) -> None:
    finished(bundle, rounds=3)
    result = run(bundle, "--rounds", "3", "--json", "-", "--own-exit")
    assert result.exit_code == 0
    assert result.stdout.startswith("{")
    assert '"draw": "own"' in result.stdout


def in_a_fresh_interpreter(code: str) -> str:
    path = f"{ROOT}:{ROOT / 'server'}"
    return subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    ).stdout


def test_help_does_not_wait_for_heavy_packages() -> None:
    loaded = in_a_fresh_interpreter(
        "import sys; from edgefl_server.command import server;"
        "server(['run', '--help'], standalone_mode=False); print(*sys.modules, file=sys.stdout)"
    )
    assert {"flwr", "numpy", "rich"}.isdisjoint(loaded.split())


def test_without_flower_the_message_says_what_to_install() -> None:
    said = in_a_fresh_interpreter(
        "import sys; sys.modules['flwr'] = None\n"
        "from edgefl_server.command import server\n"
        "try: server(['run', '--bundle', 'b', '--rounds', '1'], standalone_mode=False)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    assert said.startswith("MissingExtraError")
    assert "pip install 'edgefl[server]'" in said
