"""The peer that is one ONNX graph: a whole training step traced through autograd, or a plain export of an exit.

A training step is traced as autograd -> fx -> ONNX: the frozen weights are constants, the adapter's tensors are inputs,
the loss and their gradients are outputs.  Tracing takes minutes at a deep exit, so graphs are kept in a cache folder.
Run as `python -m benchmarks.one_graph`, this module builds the graph that a `Recipe` on standard input describes.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import msgspec

from benchmarks.setting import Setting, build_network
from edgefl.errors import EdgeFLError, StorageError

__all__ = ["Recipe", "cached_graph"]

_LAYOUT = 1
"""Raised when a graph is built in another way."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """A graph to build.

    Attributes:
        mode: A whole training step, or logits.
        setting: Model and batch.
        exit_index: The exit.
        folder: Where the graph is written, as `graph.onnx` and the weights beside it.
    """

    mode: Literal["train", "infer"]
    setting: Setting
    exit_index: int
    folder: str = ""


def cached_graph(cache: Path, recipe: Recipe) -> Path:
    """Return the file of a graph, built first where the cache does not have it.

    Raises:
        StorageError: If the cache cannot be written.
        EdgeFLError: If the graph cannot be built.
    """
    folder = cache / _name(recipe)
    if not (folder / "graph.onnx").is_file():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=cache))
        except OSError as error:
            raise StorageError(
                f"cannot write to the cache {cache}: {error.strerror}; choose another --cache"
            ) from error
        try:
            _build_apart(msgspec.structs.replace(recipe, folder=str(partial)))
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder / "graph.onnx"


def _name(recipe: Recipe) -> str:
    """Return a folder's name that tells apart all a graph depends on; what is not spelled out is in the hash."""
    setting = recipe.setting
    versions = {name: version(name) for name in ("torch", "onnx", "onnxscript", "timm")}
    key = msgspec.json.encode([_LAYOUT, setting, versions])
    return (
        f"{recipe.mode}_{setting.model}_{setting.image_size}px_batch{setting.batch}_exit{recipe.exit_index:02d}_"
        f"torch{versions['torch']}_onnx{versions['onnx']}_{hashlib.sha256(key).hexdigest()[:8]}"
    )


def _build_apart(recipe: Recipe) -> None:
    """Build in a process of its own, whose gigabytes are given back."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.one_graph"]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, input=msgspec.json.encode(recipe), cwd=root, capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2] or f"status {done.returncode}"
        raise EdgeFLError(f"the graph of {recipe.mode} at exit {recipe.exit_index} could not be built: {said}")


def _build(recipe: Recipe) -> None:
    file = Path(recipe.folder, "graph.onnx")
    (_trace_step if recipe.mode == "train" else _export_plainly)(recipe, file)


def _trace_step(recipe: Recipe, file: Path) -> None:
    import torch
    from torch import Tensor
    from torch._decomp import core_aten_decompositions
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.nn import functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    setting, exit_index = recipe.setting, recipe.exit_index
    network = build_network(setting, exit_index)
    names = list(network.adapter())

    def step(samples: Tensor, labels: Tensor, *adapter: Tensor) -> tuple[Tensor, ...]:
        values = [value.detach().requires_grad_() for value in adapter]
        tensors = dict(zip(names, values, strict=True))
        logits = torch.func.functional_call(network, tensors, (samples, exit_index))
        loss = F.cross_entropy(logits, labels)
        return loss, *torch.autograd.grad(loss, values)

    samples, labels = setting.samples(network.backbone.channels), setting.labels()
    adapter = [value.detach() for value in network.adapter().values()]
    given = (torch.from_numpy(samples), torch.from_numpy(labels), *adapter)
    # Fused attention has one operator for its backward pass that ONNX does not know.
    with sdpa_kernel(SDPBackend.MATH):
        traced = make_fx(step, decomposition_table=dict(core_aten_decompositions()), tracing_mode="real")(*given)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    program = torch.export.export(traced, given, strict=False)
    inputs, outputs = ["samples", "labels", *names], ["loss", *(f"gradient.{name}" for name in names)]
    torch.onnx.export(
        program, (), f=file, input_names=inputs, output_names=outputs, dynamo=True, external_data=True, verbose=False
    )


def _export_plainly(recipe: Recipe, file: Path) -> None:
    import torch
    from torch import Tensor, nn

    network = build_network(recipe.setting, recipe.exit_index)

    class Exit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, samples: Tensor) -> Tensor:
            logits: Tensor = self.network(samples, recipe.exit_index)
            return logits

    samples = torch.from_numpy(recipe.setting.samples(network.backbone.channels))
    torch.onnx.export(
        Exit().eval(),
        (samples,),
        f=file,
        input_names=["samples"],
        output_names=["logits"],
        dynamo=True,
        external_data=True,
        verbose=False,
    )


if __name__ == "__main__":
    _build(msgspec.json.decode(sys.stdin.buffer.read(), type=Recipe))
