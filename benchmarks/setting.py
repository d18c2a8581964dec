"""What all sides of a comparison have in common: the model, its random weights, the samples and the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

if TYPE_CHECKING:  # a side without torch reads this module too
    from edgefl_export.model.network import AccumulatorNetwork

__all__ = ["Setting", "build_network"]


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """A model and a batch.

    Attributes:
        model: timm's model name, or the embedded one.
        image_size: Height and width of a sample, in pixels.
        classes: Number of classes.
        batch: Samples of one step or one inference.
        seed: Of the random weights.
    """

    model: str
    image_size: int
    classes: int
    batch: int
    seed: int = 0

    def samples(self, channels: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return random samples (B, channels, height, width), the same for every side."""
        shape = (self.batch, channels, self.image_size, self.image_size)
        return np.random.default_rng(0).standard_normal(shape, np.float32)

    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the labels of the samples, (B,)."""
        return np.arange(self.batch) % self.classes

    def export_options(self, exits: tuple[int, ...]) -> list[str]:
        """Return the options with which `edgefl export` makes the bundle of this setting."""
        options = {
            "--model": self.model,
            "--img-size": self.image_size,
            "--classes": self.classes,
            "--batch-size": self.batch,
            "--seed": self.seed,
            "--exits": ",".join(map(str, exits)),
        }
        return ["--no-pretrained", *(str(part) for option in options.items() for part in option)]


def build_network(setting: Setting, exit_index: int) -> AccumulatorNetwork:
    """Return the torch model of a setting, with the weights of its bundle and no blocks behind the exit."""
    import torch

    from edgefl_export.model.backbone import Source, load_backbone
    from edgefl_export.model.config import AccumulatorConfig, paper_mlp_dim
    from edgefl_export.model.network import AccumulatorNetwork

    backbone = load_backbone(
        Source(name=setting.model, pretrained=False, image_size=setting.image_size, seed=setting.seed)
    )
    del backbone.blocks[exit_index + 1 :]
    config = AccumulatorConfig(
        width=backbone.width,
        blocks=exit_index + 1,
        classes=setting.classes,
        mlp_dim=paper_mlp_dim(backbone.width),
    )
    torch.manual_seed(setting.seed)
    return AccumulatorNetwork(backbone, config).eval()
