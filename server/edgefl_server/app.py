"""The ServerApp that Flower starts for a run; everything it needs comes in the run config."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from edgefl.bundle import Bundle
from edgefl.core.folder_lock import wait_until_unlocked
from edgefl_server.host.state import StateFolder
from edgefl_server.rounds.checkpoint import load_checkpoint
from edgefl_server.settings import Settings
from edgefl_server.strategy import TierStrategy

__all__ = ["app"]

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that are left.

    Args:
        grid: Flower's connection to the nodes.
        context: Holds the settings of the run.
    """
    settings = Settings.from_run_config(context.run_config)
    state = StateFolder(Path(settings.state))
    threading.Thread(target=_end_with_server, args=(state,), name="edgefl-lifeline", daemon=True).start()
    _log_to(state.server_log)
    # `edgefl server run` has hashed the bundle a moment ago.
    bundle = Bundle(Path(settings.bundle), verify=False)
    TierStrategy(settings, bundle.manifest, load_checkpoint(state.checkpoint, bundle)).run(grid, state)


def _end_with_server(state: StateFolder) -> None:
    """End this process with the command it belongs to, even if that one was killed.

    Flower would keep it for some seconds more, in which its next checkpoint could replace one of the server that was
    started instead.
    """
    wait_until_unlocked(state.path)
    os._exit(1)


def _log_to(path: Path) -> None:
    """Append what edgefl's server logs to a file, which `edgefl server run` shows."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("edgefl_server")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
