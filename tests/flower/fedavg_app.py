"""A ServerApp as Flower's own tutorials have it: FedAvg over the adapter of tests/golden/bundle, two rounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from edgefl.bundle import Bundle

app = ServerApp()

_BUNDLE = Path(__file__).parents[1] / "golden" / "bundle"


@app.main()
def main(grid: Grid, context: Context) -> None:
    adapter = Bundle(_BUNDLE).adapter().tensors
    arrays = ArrayRecord({name: Array(np.array(array)) for name, array in adapter.items()})
    result = FedAvg().start(grid, arrays, num_rounds=2)
    path = Path(str(context.run_config["results"]))
    with path.with_suffix(".new").open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: array.numpy() for name, array in result.arrays.items()})
    path.with_suffix(".new").replace(path)
