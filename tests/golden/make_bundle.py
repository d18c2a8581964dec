"""Make tests/golden/bundle again: `python -m tests.golden.make_bundle`, with the export extra installed.

A bundle small enough to be kept in the repository, so that the tests of the device packages need no torch: three
blocks of width 24 on 16 x 16 grey images, exits 0, 1 and 2, parallel adapters of rank 4, five classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from edgefl_export.exporter import ExportResult, export_bundle
from edgefl_export.model.backbone import Backbone
from edgefl_export.model.config import AccumulatorConfig
from edgefl_export.model.network import AccumulatorNetwork

FOLDER = Path(__file__).parent / "bundle"
INPUT = {"crop_pct": 1.0, "interpolation": "bilinear", "mean": (0.3,), "std": (0.35,)}


def golden_network() -> AccumulatorNetwork:
    """Return the network, the same one every time."""
    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=16, patch_size=8, in_chans=1, num_classes=0, embed_dim=24, depth=3, num_heads=2, mlp_ratio=2
    )
    backbone = Backbone("golden", vit, INPUT)
    config = AccumulatorConfig(width=24, blocks=3, classes=5, mlp_dim=32, position_rows=5, parallel_adapter_rank=4)
    network = AccumulatorNetwork(backbone, config)
    _draw_exactly(network)
    return network


@torch.no_grad()
def _draw_exactly(network: AccumulatorNetwork) -> None:
    """Replace what was drawn by multiples of 1/1024: torch's own numbers differ in the last bit between processors."""
    random = np.random.default_rng(0)
    for parameter in network.parameters():
        if parameter.unique().numel() > 1:
            parameter.copy_(torch.from_numpy(random.integers(-64, 65, tuple(parameter.shape)) / 1024))


def export_golden(out: Path) -> ExportResult:
    """Export the network; its training programs take 4 samples at once, lean ones 1 and fast ones 10."""
    return export_bundle(golden_network(), (0, 1, 2), out, batch=10, seed=0, force=True, progress=lambda *_: None)


if __name__ == "__main__":
    export_golden(FOLDER)
