"""The `edgefl` command: finds its subcommands by entry point and turns errors into messages and exit codes.

A subcommand lives where its work is done and may need an extra; this module imports none of them before it is asked
for one, so `edgefl --help` works on a device that has only the runtime.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

import click

from edgefl.errors import EdgeFLError, MissingExtraError
from edgefl.version import __version__

__all__ = ["commands", "main"]

_GROUP = "edgefl.commands"


class _Commands(click.Group):
    """A group whose subcommands are entry points."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all subcommands, installed extras or not."""
        del ctx
        return sorted({point.name for point in entry_points(group=_GROUP)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one subcommand."""
        del ctx
        points = entry_points(group=_GROUP, name=cmd_name)
        if not points:
            return None
        command = next(iter(points)).load()
        if not isinstance(command, click.Command):
            raise TypeError(
                f"entry point {cmd_name} of {_GROUP} is a {type(command).__name__}, expected a click command"
            )
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgefl")
def commands() -> None:
    """Federated learning and anytime inference on devices people really have."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit code.

    Args:
        arguments: What follows `edgefl`; None for the process's own.
    """
    try:
        commands.main(args=arguments, prog_name="edgefl", standalone_mode=False)
    except EdgeFLError as error:
        _fail(str(error), error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except ModuleNotFoundError as error:
        missing = _missing_extra(error)
        _fail(str(missing), missing.exit_code)


def _fail(message: str, code: int) -> None:
    click.echo(f"edgefl: {message}", err=True)
    sys.exit(code)


def _missing_extra(error: ModuleNotFoundError) -> MissingExtraError:
    """Say which extra brings a module.

    Raises:
        ModuleNotFoundError: The error itself, if no extra does: then it is a fault of edgefl.
    """
    module = (error.name or "").partition(".")[0]
    extras = {
        "export": {"torch", "torchvision", "timm", "onnx", "onnxscript", "safetensors"},
        "server": {"flwr"},
        "serve": {"grpc", "grpc_health", "grpc_reflection", "prometheus_client"},
        "demo": {"sklearn"},
        "plot": {"matplotlib"},
    }
    for extra, modules in extras.items():
        if module in modules:
            return MissingExtraError(f"{module} is not installed here: pip install 'edgefl[{extra}]'")
    raise error
