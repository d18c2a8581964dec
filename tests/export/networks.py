"""Networks small enough to lower many graphs of, and the tensors tests feed them."""

from __future__ import annotations

from typing import Any

import onnx
import torch
from timm.models.vision_transformer import VisionTransformer

from edgefl_export.lowering import lower_graphs
from edgefl_export.model.backbone import Backbone, Source, load_backbone
from edgefl_export.model.config import AccumulatorConfig, paper_mlp_dim
from edgefl_export.model.network import AccumulatorNetwork

INPUT = {"crop_pct": 1.0, "interpolation": "bilinear", "mean": (0.3,), "std": (0.35,)}


def small_backbone(blocks: int = 4) -> Backbone:
    """Return random blocks of width 12 with 2 heads, on 8 x 8 grey images in 4 patches."""
    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=0, embed_dim=12, depth=blocks, num_heads=2, mlp_ratio=2
    )
    return Backbone("small", vit, INPUT)


def small_network(**settings: Any) -> AccumulatorNetwork:
    """Return a network of width 12 with 4 blocks and 3 classes.

    Args:
        settings: Of `AccumulatorConfig`, where others are wanted.
    """
    backbone = small_backbone(settings.get("blocks", 4))
    chosen: dict[str, Any] = {"width": 12, "blocks": 4, "classes": 3, "mlp_dim": 7, "heads": 3}
    return AccumulatorNetwork(backbone, AccumulatorConfig(**(chosen | settings)))


def fill_adapter(network: AccumulatorNetwork) -> AccumulatorNetwork:
    """Give every adapter tensor values that are not small, and return the network."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in network.adapter().values():
            parameter.normal_(std=0.5)
    return network


def embedded_network(**settings: Any) -> AccumulatorNetwork:
    """Return the embedded backbone with the adapter `edgefl export` gives it."""
    backbone = load_backbone(Source(name="glyphs_tiny_patch8_32"))
    chosen: dict[str, Any] = {"width": 96, "blocks": 12, "classes": 10, "mlp_dim": paper_mlp_dim(96)}
    torch.manual_seed(0)
    return AccumulatorNetwork(backbone, AccumulatorConfig(**(chosen | settings)))


def lowered(network: AccumulatorNetwork, name: str) -> onnx.ModelProto:
    """Lower one graph of a network."""
    return lower_graphs(network, [name], lambda *_: None)[name]
