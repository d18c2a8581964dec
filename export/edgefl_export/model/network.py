"""The frozen backbone with the Accumulator beside it, as the paper defines it (arXiv 2212.04084, equations 4 to 9)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from edgefl_export.model.accumulator import Accumulator, Head
from edgefl_export.model.adapters import ParallelAdapters
from edgefl_export.model.backbone import Backbone
from edgefl_export.model.config import AccumulatorConfig

__all__ = ["AccumulatorNetwork"]


class AccumulatorNetwork(nn.Module):
    """A frozen backbone whose CLS tokens are accumulated, modulated and read at every block.

    Attributes:
        config: What the adapter is made of.
        accumulator: The Accumulator.
        head: The head all exits share.
        parallel_adapters: The parallel adapters, None where the rank is 0.
    """

    def __init__(self, backbone: Backbone, config: AccumulatorConfig) -> None:
        super().__init__()
        self.config = config
        self.accumulator = Accumulator(config)
        self.head = Head(config)
        self.apply(_init_linear)
        self.parallel_adapters = ParallelAdapters(config) if config.parallel_adapter_rank else None
        self.backbone = backbone

    def adapter(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by name: what `adapter.safetensors` holds."""
        return {name: p for name, p in self.named_parameters() if not name.startswith("backbone.")}

    def forward(self, samples: Tensor, exit_index: int) -> Tensor:
        """Return logits (B, C) of one exit for samples (B, channels, height, width)."""
        *_, (logits, _) = self._walk(samples, exit_index, {exit_index})
        return logits

    def anytime(self, samples: Tensor, exits: set[int]) -> dict[int, Tensor]:
        """Return logits (B, C) of several exits from one pass."""
        return {index: logits for logits, index in self._walk(samples, max(exits), exits)}

    def _walk(self, samples: Tensor, deepest: int, exits: set[int]) -> Iterator[tuple[Tensor, int]]:
        z = self.backbone.embed(samples)  # (B, n, D)
        history: list[Tensor] = []  # modified CLS tokens c'_0 .. c'_{l-1}, each (B, D)
        for index in range(deepest + 1):
            z = self._block(z, index)
            newest = z[:, 0]  # c_l, original
            outputs = self.accumulator([*history, newest])  # (B, l + 2, D)
            if index in exits:
                answer = outputs[:, 0] + newest if self.config.residual else outputs[:, 0]
                yield self.head(answer), index
            if self.config.replace:
                newest = outputs[:, -1]  # c'_l
                z = torch.cat([newest[:, None], z[:, 1:]], dim=1)
            history.append(newest)

    def _block(self, z: Tensor, index: int) -> Tensor:
        block = self.backbone.blocks[index]
        y = z + block.attn(block.norm1(z))
        out = y + block.mlp(block.norm2(y))
        return out if self.parallel_adapters is None else out + self.parallel_adapters(y, index)


def _init_linear(module: nn.Module) -> None:
    """Truncated normal with std 0.02 and zero bias, as the released code initialises every linear layer."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
