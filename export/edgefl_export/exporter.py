"""From a frozen backbone to a checked bundle."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgefl.bundle import Bundle
from edgefl.bundle.manifest import Variant
from edgefl.bundle.program import Call, Input, Program, with_knob
from edgefl.runtime.model import Model
from edgefl_export.bundle import BundleParts, write_bundle
from edgefl_export.compose import Composer
from edgefl_export.folder import new_folder
from edgefl_export.graphs.catalog import Catalog
from edgefl_export.lowering import Progress, called_graphs, lower_graphs
from edgefl_export.model.network import AccumulatorNetwork
from edgefl_export.parity import Parity, check_parity, measure_parity, trained_adapter

__all__ = ["ExportResult", "export_bundle", "knob_variants", "training_programs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What an export reports.

    Attributes:
        folder: The bundle.
        parity: For each exit, the worse of the exported and of trained weights.
        weight_bytes: Bytes of backbone and adapter tensors.
        bundle_bytes: Bytes of all files.
        seconds: Time of the whole export.
    """

    folder: Path
    parity: tuple[Parity, ...]
    weight_bytes: int
    bundle_bytes: int
    seconds: float


def export_bundle(
    network: AccumulatorNetwork,
    exits: Sequence[int],
    out: Path,
    *,
    batch: int,
    seed: int,
    force: bool,
    progress: Progress,
) -> ExportResult:
    """Export, compare with torch in float64, and only then give the folder its name.

    Args:
        network: Backbone and adapter.
        exits: The exits, rising; the backbone must have them.
        out: The bundle's folder.
        batch: Samples that a training step takes at once where memory does not matter.
        seed: Of the random samples that parity is measured on.
        force: Whether an existing bundle is replaced.
        progress: Told about each step.

    Raises:
        ParityError: If the bundle does not compute what torch computes.
        BadInputError: If `out` exists.
        StorageError: If `out` cannot be written.
    """
    started = time.perf_counter()
    with new_folder(out, force=force) as folder:
        programs = _programs(Composer(Catalog(network)), exits, batch)
        variants = knob_variants(exits, batch)
        graphs = lower_graphs(network, called_graphs(programs), progress)
        parts = BundleParts(network=network, exits=exits, programs=programs, variants=variants, graphs=graphs)
        manifest = write_bundle(folder, parts)
        parity = _parity(network, folder, exits, seed, progress)
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    return ExportResult(
        folder=out,
        parity=parity,
        weight_bytes=sum(tensor.num_bytes for tensor in manifest.tensors.values()),
        bundle_bytes=sum(sizes.values()),
        seconds=time.perf_counter() - started,
    )


def training_programs(composer: Composer, exits: Sequence[int], batch: int) -> dict[str, Program]:
    """Return the training programs by name, those that differ only in their batch left out.

    Args:
        composer: Of the network.
        exits: The exits.
        batch: Samples that a training step takes at once where memory does not matter.
    """
    programs = {f"train/{e}": composer.train(e, _half(batch)) for e in exits}
    return programs | {f"train/{e}/lean": composer.train(e, _half(batch), "little") for e in exits}


def knob_variants(exits: Sequence[int], batch: int) -> dict[str, Variant]:
    """Return by name what memory knobs make of programs as they are, for arguments as of `training_programs`.

    Training with `lean` is missing: that is a program of its own.
    """
    answering = ["anytime", *(f"infer/{e}" for e in exits)]
    inference = {
        with_knob(name, memory): Variant(program=name, batch=None, packed=memory == "fast")
        for name in answering
        for memory in ("lean", "balanced", "fast")
    }
    training = {
        with_knob(f"train/{e}", memory): Variant(program=f"train/{e}", batch=size, packed=memory == "fast")
        for e in exits
        for memory, size in (("balanced", _half(batch)), ("fast", batch))
    }
    return inference | training


def _half(batch: int) -> int:
    return -(-batch // 2)


def _programs(composer: Composer, exits: Sequence[int], batch: int) -> dict[str, Program]:
    preprocess = Program(
        mode="preprocess",
        exit_index=None,
        batch=None,
        inputs={"images": Input(dtype="uint8", shape=[None, None, None, 3])},
        calls=[Call(graph="preprocess", inputs=["images"], outputs=["samples"])],
        outputs={"samples": ["samples"]},
    )
    programs = {"preprocess": preprocess}
    programs |= {f"infer/{e}": composer.infer(e) for e in exits}
    programs |= {"anytime": composer.anytime(exits)}
    return programs | training_programs(composer, exits, batch)


def _parity(
    network: AccumulatorNetwork, folder: Path, exits: Sequence[int], seed: int, progress: Progress
) -> tuple[Parity, ...]:
    """Compare exported and trained weights with torch, and keep the worse of both for each exit."""
    bundle = Bundle(folder)
    model = Model(bundle, bundle.adapter())
    worst: dict[int, Parity] = {}
    adapters = [{name: np.array(array) for name, array in model.adapter.items()}, trained_adapter(network, seed)]
    for number, adapter in enumerate(adapters):
        found = measure_parity(network, model, adapter, exits, seed)
        for place, exit_index in enumerate(exits):
            progress(f"parity at exit {exit_index}", number * len(exits) + place, len(adapters) * len(exits))
            parity = next(found)
            check_parity([parity])
            worst[exit_index] = _worse(parity, worst.get(exit_index, parity))
    return tuple(worst.values())


def _worse(one: Parity, other: Parity) -> Parity:
    return Parity(
        exit_index=one.exit_index,
        logits=max(one.logits, other.logits),
        gradient=max(one.gradient, other.gradient),
        tensor=(one if one.gradient >= other.gradient else other).tensor,
    )
