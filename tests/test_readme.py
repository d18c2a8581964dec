"""The README tells the truth: its tables are its records, its commands exist, its snippet runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from benchmarks.tables import rewrite
from edgefl.cli import commands

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    \$ edgefl (.+)$", README, re.MULTILINE)


def test_every_table_is_made_from_its_records() -> None:
    assert rewrite(README) == README, "run: python benchmarks/tables.py README.md"


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_one_that_edgefl_understands(line: str) -> None:
    name, *arguments = shlex.split(line)
    with click.Context(commands) as context:
        command = commands.get_command(context, name)
        assert command is not None
        while isinstance(command, click.Group):
            name, *arguments = arguments
            command = command.get_command(context, name)
            assert command is not None
        command.make_context(name, arguments)


def test_the_readme_shows_every_command_but_the_demo() -> None:
    with click.Context(commands) as context:
        assert {line.split()[0] for line in COMMANDS} == set(commands.list_commands(context)) - {"demo"}


def test_every_file_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (Path(__file__).parent.parent / link).exists()] == []


@pytest.mark.slow
def test_the_python_example_runs_on_what_the_first_command_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands.main(shlex.split(COMMANDS[0]), standalone_mode=False)
    (snippet,) = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    names: dict[str, object] = {}
    exec(snippet, names)  # noqa: S102  # the README's own
    assert isinstance(names["loss"], float)
