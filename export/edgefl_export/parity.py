"""How far an exported bundle is from torch in float64, at every exit, with random and with trained weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from edgefl.errors import ParityError
from edgefl.runtime.model import Model
from edgefl_export.model.network import AccumulatorNetwork

__all__ = ["TOLERANCE", "Parity", "check_parity", "in_float64", "measure_parity", "trained_adapter"]

TOLERANCE = 1e-4
"""Largest relative difference that is accepted; a norm below 1e-3 counts as 1e-3."""

_FLOOR = 1e-3

Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Relative difference between the bundle and torch at one exit.

    Attributes:
        exit_index: The exit.
        logits: ||l - l64|| / (||l64|| + 1e-3), over the batch.
        gradient: The same of the worst adapter tensor's gradient.
        tensor: That tensor's name, and the program.
    """

    exit_index: int
    logits: float
    gradient: float
    tensor: str


def measure_parity(
    network: AccumulatorNetwork, model: Model, adapter: Arrays, exits: Sequence[int], seed: int, batch: int = 2
) -> Iterator[Parity]:
    """Compare logits, and gradients of all training programs, on random samples.

    Args:
        network: The torch model the bundle was made from.
        model: The bundle in use.
        adapter: Trainable tensors to compare with; the bundle's own are used again afterwards.
        exits: The exits to compare.
        seed: Of the samples, labels and weights.
        batch: Number of samples.

    Yields:
        What was found at each exit.
    """
    reference = in_float64(network, adapter)
    backbone = network.backbone
    random = np.random.default_rng(seed)
    shape = (batch, backbone.channels, backbone.image_size, backbone.image_size)
    samples = random.standard_normal(shape).astype(np.float32)
    labels = random.integers(0, network.config.classes, batch)
    weights = random.dirichlet(np.ones(batch)).astype(np.float32)
    inputs: Arrays = {"samples": samples, "labels": labels, "weights": weights}
    logits = reference.anytime(torch.from_numpy(samples).double(), set(exits))
    own = model.adapter
    model.use_adapter({name: np.ascontiguousarray(array, np.float32) for name, array in adapter.items()})
    try:
        for e in exits:
            yield _at_exit(logits[e], reference, model, e, inputs)
    finally:
        model.use_adapter(own)


def check_parity(parities: Iterable[Parity]) -> None:
    """Refuse a bundle that does not compute what torch computes.

    Raises:
        ParityError: If a difference is above `TOLERANCE`; one that is not a number counts as infinite.
    """
    for parity in parities:
        for what, value in (("logits", parity.logits), (f"gradients of {parity.tensor}", parity.gradient)):
            if value > TOLERANCE:
                raise ParityError(
                    f"exit {parity.exit_index}: {what} are off by {value:.1e} of torch's, at most {TOLERANCE:.0e} "
                    "is accepted; no bundle was written. Please report model and versions"
                )


def trained_adapter(network: AccumulatorNetwork, seed: int, steps: int = 20) -> dict[str, np.ndarray[Any, Any]]:
    """Return the adapter after some training on random samples: no tensor is zero any more.

    Args:
        network: The model; it is not changed.
        seed: Of the samples.
        steps: AdamW steps, over all exits in turn.
    """
    student = copy.deepcopy(network)
    backbone, parameters = student.backbone, student.adapter()
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    shape = (2, backbone.channels, backbone.image_size, backbone.image_size)
    for step in range(steps):
        samples = torch.randn(shape, generator=generator)
        labels = torch.randint(network.config.classes, (2,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(student(samples, step % network.config.blocks), labels).backward()
        optimizer.step()
    return {name: parameter.detach().numpy() for name, parameter in parameters.items()}


def in_float64(network: AccumulatorNetwork, adapter: Arrays) -> AccumulatorNetwork:
    """Return a copy of the network in float64, with other trainable tensors."""
    reference = copy.deepcopy(network).double()
    with torch.no_grad():
        for name, parameter in reference.adapter().items():
            parameter.copy_(torch.from_numpy(np.array(adapter[name])))
    return reference


def _at_exit(
    logits64: torch.Tensor, reference: AccumulatorNetwork, model: Model, exit_index: int, inputs: Arrays
) -> Parity:
    parameters = reference.adapter()
    losses = F.cross_entropy(logits64, torch.from_numpy(inputs["labels"]), reduction="none")
    loss64 = (losses * torch.from_numpy(inputs["weights"]).double()).sum()
    # The exits share one forward pass.
    found = torch.autograd.grad(loss64, list(parameters.values()), allow_unused=True, retain_graph=True)
    expected = {
        name: np.zeros(parameter.shape) if g64 is None else g64.numpy()
        for (name, parameter), g64 in zip(parameters.items(), found, strict=True)
    }
    (prediction,) = model.infer(inputs["samples"], exit_index)
    programs = model.bundle.manifest.programs.items()
    differences = {
        (name, tensor): _relative(gradients[tensor], expected[tensor])
        for name, program in programs
        if program.mode == "train" and program.exit_index == exit_index
        for gradients in [model.run(name, inputs)]
        for tensor in expected
    }
    worst = max(differences, key=lambda place: differences[place])
    return Parity(
        exit_index=exit_index,
        logits=_relative(prediction.logits, logits64.detach().numpy()),
        gradient=differences[worst],
        tensor=f"{worst[1]} in {worst[0]}",
    )


def _relative(value: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> float:
    difference = float(np.linalg.norm(value - reference) / (np.linalg.norm(reference) + _FLOOR))
    return difference if math.isfinite(difference) else math.inf
