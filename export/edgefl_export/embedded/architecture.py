"""The shape of the embedded backbone `glyphs_tiny_patch8_32`, its input range and where its weights lie."""

from __future__ import annotations

from pathlib import Path

from timm.models.vision_transformer import VisionTransformer

__all__ = ["PIXEL_MEAN", "PIXEL_STD", "WEIGHTS", "build_glyphs_tiny"]

WEIGHTS = Path(__file__).with_name("glyphs_tiny_patch8_32.safetensors")

PIXEL_MEAN = 0.3
"""Subtracted from pixels in 0..1, ink bright on black, before they are divided by `PIXEL_STD`."""
PIXEL_STD = 0.35


def build_glyphs_tiny() -> VisionTransformer:
    """Build the backbone with random weights: 12 blocks of width 96 on 16 patches of a 32x32 grey image.

    edgefl reads the CLS token between blocks and never normalises the last one, so the model has no final norm
    and `WEIGHTS` loads into it strictly.
    """
    return VisionTransformer(
        img_size=32,
        patch_size=8,
        in_chans=1,
        num_classes=0,
        embed_dim=96,
        depth=12,
        num_heads=3,
        mlp_ratio=2,
        final_norm=False,
    )
