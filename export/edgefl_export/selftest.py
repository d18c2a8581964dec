"""The golden values of a bundle: torch's own autograd in float64, never the exported graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgefl.selftest.formula import formula_adapter, hashed
from edgefl_export.graphs.preprocess import Preprocessing
from edgefl_export.model.network import AccumulatorNetwork
from edgefl_export.parity import TOLERANCE, in_float64

__all__ = ["SELFTEST_TOLERANCE", "golden_values", "reference_samples", "tested_exits"]

SELFTEST_TOLERANCE = TOLERANCE
"""What a device may differ by: as much as the export itself."""

# float64 differs between processors in the last bits: with so few of them kept, the file is the same everywhere.
_SIGNIFICANT_BITS = 20
# A norm that is zero but for rounding is stored as zero.
_NO_NORM = 1e-9
_NUM_IMAGES = 2
_LUMA = (0.299, 0.587, 0.114)

Array = np.ndarray[Any, Any]


def tested_exits(exits: Sequence[int]) -> list[int]:
    """Return the shallowest, the middle and the deepest of the exits, each once."""
    return sorted({exits[0], exits[(len(exits) - 1) // 2], exits[-1]})


def golden_values(
    network: AccumulatorNetwork, exits: Sequence[int], shapes: Mapping[str, Sequence[int]]
) -> dict[str, Array]:
    """Return what the self-test file holds.

    Args:
        network: The model; it is not changed.
        exits: The tested exits.
        shapes: Of the adapter's tensors, in the order of its file.
    """
    reference = in_float64(network, formula_adapter(shapes))
    settings = network.backbone.preprocessing
    images = _images(settings.resize_to)
    labels = np.array([0, network.config.classes - 1], np.int64)
    logits = reference.anytime(reference_samples(images, settings), set(exits))
    values: dict[str, Array] = {"labels": labels}
    for e in exits:
        loss = F.cross_entropy(logits[e], torch.from_numpy(labels))
        values[f"logits_{e:02d}"] = _rounded(logits[e].detach().numpy())
        values[f"loss_{e:02d}"] = _rounded(loss.detach().numpy())
        values[f"gradient_norms_{e:02d}"] = _rounded(_norms(loss, reference, shapes))
    # Last: their size is no multiple of 4.
    return values | {"images": images}


def reference_samples(images: Array, settings: Preprocessing) -> Tensor:
    """Return what the preprocessing graph should make of images.

    Args:
        images: uint8 RGB, (N, H, W, 3).
        settings: Of the model.

    Returns:
        float64 (N, channels, image_size, image_size).
    """
    pixels = torch.from_numpy(images).double()
    if settings.channels == 1:
        pixels = pixels @ torch.tensor(_LUMA, dtype=torch.float64)[:, None]
    shorter = min(images.shape[1:3])
    whole = F.interpolate(
        pixels.permute(0, 3, 1, 2),
        size=[side * settings.resize_to // shorter for side in images.shape[1:3]],
        mode=settings.interpolation,
        antialias=True,
    )
    top, left = (round((side - settings.image_size) / 2) for side in whole.shape[2:])
    middle = whole[:, :, top : top + settings.image_size, left : left + settings.image_size].clamp(0, 255)
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (settings.mean, settings.std))
    return (middle / 255 - mean) / std


def _images(shorter: int) -> Array:
    """Return 9 x 10 squares of random colours, larger than a sample, so that resizing and cutting are tested too.

    Single pixels of random colours would look alike to a model: their mean is always grey.
    """
    shape = (_NUM_IMAGES, 9, 10, 3)
    colours = (hashed(prod(shape), 0) >> np.uint32(24)).astype(np.uint8).reshape(shape)
    side = -(-shorter // 8)
    return colours.repeat(side, axis=1).repeat(side, axis=2)


def _norms(loss: Tensor, reference: AccumulatorNetwork, order: Mapping[str, Sequence[int]]) -> Array:
    """Return the norm of each adapter tensor's gradient, (T,), 0 where the exit does not reach."""
    parameters = reference.adapter()
    found = torch.autograd.grad(loss, [parameters[name] for name in order], retain_graph=True, allow_unused=True)
    norms = np.array([0.0 if gradient is None else gradient.norm().item() for gradient in found])
    return np.where(norms > _NO_NORM * norms.max(), norms, 0.0)


def _rounded(values: Array) -> Array:
    fractions, exponents = np.frexp(values)
    rounded = np.ldexp(np.round(fractions * 2.0**_SIGNIFICANT_BITS), exponents - _SIGNIFICANT_BITS)
    return np.asarray(rounded, np.float32)
