"""Costs of a model that is no bundle yet: counted by the exporter, which a device does not have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points

from edgefl.bundle.manifest import Cost
from edgefl.errors import MissingExtraError

__all__ = ["ModelDescription", "costs_of_model"]

_GROUP = "edgefl.models"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """A bundle that could be exported, as `edgefl export` describes it.

    Attributes:
        name: timm's model name, or the embedded one.
        exits: The exits, rising; None for all.
        batch: Samples that `fast` training takes at once.
        classes: Number of classes.
        accumulator_heads: Attention heads of the Accumulator; must divide the width.
        image_size: Height and width of a sample in pixels; None for the model's own.
        mlp_dim: Hidden size of Accumulator and head; None for the paper's, scaled to the width.
        parallel_adapters: Rank of the parallel adapters; 0 for none.
    """

    name: str
    exits: tuple[int, ...] | None
    batch: int
    classes: int
    accumulator_heads: int
    image_size: int | None
    mlp_dim: int | None
    parallel_adapters: int


def costs_of_model(description: ModelDescription) -> Mapping[str, Cost]:
    """Return the costs of its training programs by name, `train/E/KNOB`; nothing is written.

    The entry point `costs` of the group `edgefl.models` counts them.

    Raises:
        BadInputError: If the model cannot be exported like that.
        MissingExtraError: If there is no exporter.
        ModuleNotFoundError: If there is one, without the packages of its extra.
    """
    points = entry_points(group=_GROUP, name="costs")
    if not points:
        raise MissingExtraError("a --model is planned by the exporter: pip install 'edgefl[export]'")
    count: Callable[[ModelDescription], Mapping[str, Cost]] = next(iter(points)).load()
    return count(description)
