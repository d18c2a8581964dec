"""Pre-trains the embedded backbone on drawn glyphs: `python -m edgefl_export.embedded.pretrain --help`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgefl.core.atomic import write_atomically
from edgefl.core.tensors import encode_tensors
from edgefl.errors import SamplesError
from edgefl_export.embedded.architecture import PIXEL_MEAN, PIXEL_STD, build_glyphs_tiny
from edgefl_export.embedded.glyphs import ALPHABET, GlyphBank, draw_bank, draw_batch

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

__all__ = [
    "ExitClassifier",
    "Phase",
    "accuracy_of_exits",
    "describe",
    "endless_batches",
    "optimise",
    "pretrain",
    "save_backbone",
    "two_phases",
]

_THREADS = 2
_BATCH_SIZE = 128
_VALIDATION_IMAGES = 2000
_STEPS_BETWEEN_SAVES = 500
_FINAL_RATE = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One stretch of training with one learning-rate schedule.

    Attributes:
        heads: 12 for a head of its own at every block, 1 for one head that all blocks share.
        steps: Batches of 128 to train on.
        peak_rate: Highest learning rate of AdamW.
        warm_up: Part of the steps, in 0..1, over which the rate rises to its peak.
    """

    heads: int
    steps: int
    peak_rate: float
    warm_up: float

    def rate(self, step: int) -> float:
        """Learning rate of a 0-based step: linear warm-up times half a cosine."""
        done = step / self.steps
        return self.peak_rate * min(1.0, done / self.warm_up) * (1 + math.cos(math.pi * done)) / 2 + _FINAL_RATE


class ExitClassifier(nn.Module):
    """The backbone with a linear head on the CLS token of every block.

    Args:
        backbone: Trained in place.
        heads: 12 or 1, see `Phase.heads`.
    """

    def __init__(self, backbone: VisionTransformer, heads: int) -> None:
        super().__init__()
        width = backbone.embed_dim
        self.backbone = backbone
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(ALPHABET))) for _ in range(heads)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 1, 32, 32) in 0..1 to logits (12, N, classes), one row an exit."""
        intermediates = self.backbone.forward_intermediates(
            (images - PIXEL_MEAN) / PIXEL_STD, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
        )
        # timm's declared return type does not say what these arguments ask for: (patches, CLS) after every block.
        blocks = cast("list[tuple[Tensor, Tensor]]", intermediates)
        tokens = [prefix[:, 0] for _, prefix in blocks]
        heads = list(self.heads) * (len(tokens) // len(self.heads))
        return torch.stack([head(token) for head, token in zip(heads, tokens, strict=True)])


def optimise(model: ExitClassifier, phase: Phase, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[int]:
    """Train on the mean loss of all exits, one batch a step.

    Yields:
        The number of steps done, from 1 to `phase.steps`.
    """
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )
    for step, (images, labels) in zip(range(phase.steps), batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = phase.rate(step)
        logits = model(images)
        targets = labels.expand(len(logits), -1).flatten()
        loss = F.cross_entropy(logits.flatten(0, 1), targets, label_smoothing=0.05)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        yield step + 1


@torch.inference_mode()
def accuracy_of_exits(model: ExitClassifier, images: Tensor, labels: Tensor) -> list[float]:
    """Share of images, in 0..1, that each of the 12 exits classifies correctly."""
    accuracies: list[float] = (model(images).argmax(-1) == labels).float().mean(1).tolist()
    return accuracies


def endless_batches(bank: GlyphBank, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw batches of 128 fresh images for ever; none is seen twice."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield draw_batch(bank, _BATCH_SIZE, generator)


def save_backbone(backbone: VisionTransformer, path: Path, metadata: dict[str, str]) -> None:
    """Write the backbone, without heads, as float32 safetensors under timm's names.

    Raises:
        StorageError: If the file cannot be written.
    """
    tensors = {name: tensor.numpy() for name, tensor in backbone.state_dict().items()}
    # Not the safetensors library: it writes metadata in an order that changes from run to run.
    write_atomically(path, encode_tensors(tensors, metadata))


def two_phases(steps: tuple[int, int]) -> tuple[Phase, Phase]:
    """Plan a head a block, so that early blocks learn to predict, then one head for all.

    The shared head makes every block write one code, so that edgefl's one adapter head can read all exits.

    Args:
        steps: Batches in the first and in the second phase.
    """
    return (
        Phase(heads=12, steps=steps[0], peak_rate=2e-3, warm_up=0.05),
        Phase(heads=1, steps=steps[1], peak_rate=1.2e-3, warm_up=0.08),
    )


def describe(seed: int, steps: tuple[int, int], bank: GlyphBank) -> dict[str, str]:
    """Say in the file itself how it was made; the hash tells whether another machine draws the same glyphs."""
    return {
        "seed": str(seed),
        "steps": f"{steps[0]} {steps[1]}",
        "command": f"python -m edgefl_export.embedded.pretrain --seed {seed} --steps {steps[0]} {steps[1]}",
        "glyph_bank_sha256": hashlib.sha256(bank.images.numpy().tobytes()).hexdigest(),
    }


@click.command()
@click.option(
    "--fonts",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder searched for .ttf and .otf files.",
)
@click.option("--seed", type=int, required=True, help="Decides the first weights and every image.")
@click.option(
    "--steps",
    type=(click.IntRange(1), click.IntRange(1)),
    default=(6000, 1500),
    show_default=True,
    help="Batches of 128 with a head a block, then with one shared head.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write.")
def pretrain(fonts: Path, seed: int, steps: tuple[int, int], out: Path) -> None:
    """Pre-train glyphs_tiny_patch8_32 on letters and symbols drawn in many fonts, never on a digit."""
    # A sum over more threads rounds differently, and training amplifies that.
    torch.set_num_threads(_THREADS)
    torch.manual_seed(seed)
    try:
        bank = draw_bank(fonts)
    except SamplesError as error:
        raise click.BadParameter(str(error), param_hint="--fonts") from error
    click.echo(f"{len(bank.images)} glyphs of {bank.fonts} fonts, {len(ALPHABET)} classes")
    backbone = build_glyphs_tiny()
    batches = endless_batches(bank, seed)
    held_out = draw_batch(bank, _VALIDATION_IMAGES, torch.Generator().manual_seed(seed + 1))
    for phase in two_phases(steps):
        model = ExitClassifier(backbone, phase.heads)
        with click.progressbar(optimise(model, phase, batches), length=phase.steps) as progress:
            for done in progress:
                if done % _STEPS_BETWEEN_SAVES == 0 or done == phase.steps:
                    save_backbone(backbone, out, describe(seed, steps, bank))
                    accuracies = " ".join(f"{value:.1%}" for value in accuracy_of_exits(model, *held_out))
                    click.echo(f"\nheads {phase.heads}, step {done}: validation accuracy {accuracies}")


if __name__ == "__main__":
    pretrain()
