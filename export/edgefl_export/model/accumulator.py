"""The Accumulator and its head (arXiv 2212.04084, section 4.2), in the plain form that exports are compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgefl_export.model.config import AccumulatorConfig

__all__ = ["Accumulator", "Head"]


class Attention(nn.Module):
    """Attention of the Accumulator: qkv without bias, scaled by width^-0.5 (not by the head's size)."""

    def __init__(self, config: AccumulatorConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, n, D) for tokens (B, n, D)."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-2, -1) * width**-0.5, dim=-1)  # (B, heads, n, n)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) for (..., width)."""
        return self.fc2(F.gelu(self.fc1(x)))


class AccumulatorBlock(nn.Module):
    """One pre-LN transformer block over the history of CLS tokens; LayerNorm eps 1e-5."""

    def __init__(self, config: AccumulatorConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = Mlp(config.width, config.mlp_dim, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, n, D) for tokens (B, n, D)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Accumulator(nn.Module):
    """Reads the client token and the history of CLS tokens.

    Row 0 of `positions` is added to the client token, row l + 1 to the token of block l.
    """

    def __init__(self, config: AccumulatorConfig) -> None:
        super().__init__()
        std = 1.0 if config.init == "released" else 0.02
        self.client_token = nn.Parameter(torch.randn(config.width) * std)
        self.positions = nn.Parameter(torch.randn(config.position_rows, config.width) * std)
        self.blocks = nn.ModuleList(AccumulatorBlock(config) for _ in range(config.depth))

    def forward(self, history: list[Tensor]) -> Tensor:
        """Return one output token for the client token and for each token of the history.

        Args:
            history: CLS tokens (B, D), oldest first.

        Returns:
            (B, 1 + len(history), D); the first row belongs to the client token.
        """
        client = self.client_token.expand(history[0].shape[0], -1)
        tokens = torch.stack([client, *history], dim=1)
        tokens = tokens + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


class Head(nn.Module):
    """The classifier all exits share: LayerNorm, then an MLP, or a linear layer in the ablation."""

    def __init__(self, config: AccumulatorConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        if config.head == "mlp":
            self.mlp: nn.Module = Mlp(config.width, config.mlp_dim, config.classes)
        else:
            self.mlp = nn.Linear(config.width, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) for (B, D)."""
        return self.mlp(self.norm(x))
