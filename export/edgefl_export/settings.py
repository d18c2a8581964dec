"""The torch model that the options of a command describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from edgefl.core.exits import check_exits
from edgefl_export.model.backbone import Source, load_backbone
from edgefl_export.model.config import AccumulatorConfig, paper_mlp_dim
from edgefl_export.model.network import AccumulatorNetwork

__all__ = ["make_network"]


def make_network(
    settings: Mapping[str, Any], exits: tuple[int, ...] | None
) -> tuple[AccumulatorNetwork, tuple[int, ...]]:
    """Make a model no deeper than its exits, and say which exits those are.

    Args:
        settings: Options of `edgefl export` by name.
        exits: The exits, rising; None for all the model has.

    Raises:
        BadInputError: If there is no such model, or it cannot be exported like that.
        UnreachableError: If its weights cannot be fetched.
    """
    backbone = load_backbone(
        Source(
            name=settings["model"],
            pretrained=settings["pretrained"],
            weights=settings["weights"],
            image_size=settings["img_size"],
            seed=settings["seed"],
        )
    )
    available = tuple(range(len(backbone.blocks)))
    exits = exits if exits is not None else available
    check_exits(exits, available, f"model {backbone.name}")
    config = AccumulatorConfig(
        width=backbone.width,
        blocks=exits[-1] + 1,
        classes=settings["classes"],
        mlp_dim=settings["mlp_dim"] or paper_mlp_dim(backbone.width),
        heads=settings["accumulator_heads"],
        replace=settings["replace"],
        parallel_adapter_rank=settings["parallel_adapters"],
        init=settings["init"],
    )
    torch.manual_seed(settings["seed"])
    return AccumulatorNetwork(backbone, config), exits
