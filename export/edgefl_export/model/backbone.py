"""Frozen timm backbones, and the embedded one that needs no download."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data.config import resolve_model_data_config
from timm.layers.patch_embed import PatchEmbed
from timm.models import vision_transformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from edgefl.errors import BadInputError, UnknownModelError, UnreachableError
from edgefl_export.embedded import EMBEDDED_MODEL
from edgefl_export.embedded.architecture import PIXEL_MEAN, PIXEL_STD, WEIGHTS, build_glyphs_tiny
from edgefl_export.graphs.preprocess import Preprocessing

__all__ = ["Backbone", "Source", "load_backbone"]

_EMBEDDED_INPUT = {"crop_pct": 1.0, "interpolation": "bilinear", "mean": (PIXEL_MEAN,), "std": (PIXEL_STD,)}
_SUPPORTED = "plain ViT and DeiT of timm: vit_tiny/small/base/large_patch*, deit_tiny/small/base_patch16_*"

Vit = Any
"""A vision transformer of timm, which does not type the parts of its models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a backbone comes from.

    Attributes:
        name: timm's model name, or `glyphs_tiny_patch8_32`.
        pretrained: Whether timm fetches its weights; ignored for the embedded backbone and where `weights` is given.
        weights: One's own safetensors file with timm's names.
        image_size: Height and width of a sample, None for the model's own.
        seed: Of the random weights where nothing is loaded.
    """

    name: str
    pretrained: bool = True
    weights: Path | None = None
    image_size: int | None = None
    seed: int = 0


class Backbone(nn.Module):
    """A frozen pre-LN vision transformer.

    Attributes:
        name: timm's model name.
        blocks: Its blocks.
        width: Size of a token.
        heads: Attention heads of a block.
        mlp_width: Hidden size of a block's FFN.
        image_size: Height and width of a sample, in pixels.
        patch_size: Height and width of a patch, in pixels.
        channels: Channels of a sample.
        preprocessing: How images become samples.
    """

    def __init__(self, name: str, vit: Vit, settings: Mapping[str, Any]) -> None:
        super().__init__()
        _check_architecture(name, vit)
        _check_patches(name, vit)
        self.name = name
        self.vit: Vit = vit.eval().requires_grad_(requires_grad=False)
        self.blocks = vit.blocks
        self.width: int = vit.embed_dim
        self.heads: int = vit.blocks[0].attn.num_heads
        self.mlp_width: int = vit.blocks[0].mlp.fc1.out_features
        self.image_size: int = vit.patch_embed.img_size[0]
        self.patch_size: int = vit.patch_embed.patch_size[0]
        self.channels: Literal[1, 3] = vit.patch_embed.proj.in_channels
        self.preprocessing = Preprocessing(
            image_size=self.image_size,
            resize_to=math.floor(self.image_size / settings["crop_pct"]),
            channels=self.channels,
            interpolation="bilinear" if settings["interpolation"] == "bilinear" else "bicubic",
            mean=tuple(settings["mean"]),
            std=tuple(settings["std"]),
        )

    @property
    def tokens(self) -> int:
        """Tokens of a sample, the CLS token included."""
        return (self.image_size // self.patch_size) ** 2 + 1

    def embed(self, samples: Tensor) -> Tensor:
        """Return tokens (B, n, D), CLS first, positions added, for samples (B, channels, height, width)."""
        return self.vit._pos_embed(self.vit.patch_embed(samples))  # noqa: SLF001  # timm has no public name for it

    def frozen(self) -> dict[str, Tensor]:
        """Return the tensors that exits read, by timm's name; the final norm and classifier are not among them."""
        used = ("cls_token", "pos_embed", "patch_embed.", "blocks.")
        return {name: tensor.detach() for name, tensor in self.vit.named_parameters() if name.startswith(used)}


def load_backbone(source: Source) -> Backbone:
    """Make a frozen backbone.

    Raises:
        UnknownModelError: If timm has no such model or edgefl cannot export it.
        UnreachableError: If its weights cannot be fetched.
        BadInputError: If the image size does not fit or the weights file is of another model.
    """
    if source.name == EMBEDDED_MODEL:
        return _embedded(source)
    if not timm.is_model(source.name):
        near = ", ".join(difflib.get_close_matches(source.name, [EMBEDDED_MODEL, *timm.list_models()], 5))
        raise UnknownModelError(
            f"timm has no model {source.name!r}{f'; near it: {near}' if near else ''}. "
            f"Supported are {_SUPPORTED}, and {EMBEDDED_MODEL}"
        )
    torch.manual_seed(source.seed)
    vit = _create(source)
    # What cannot be exported is refused before its weights are fetched.
    _check_architecture(source.name, vit)
    if source.weights is not None:
        _load(vit, source.weights)
    elif source.pretrained:
        vit = _fetch(source)
    return Backbone(source.name, vit, resolve_model_data_config(vit))


def _embedded(source: Source) -> Backbone:
    if source.image_size not in {None, 32}:
        raise BadInputError(
            f"image size {source.image_size}: {EMBEDDED_MODEL} reads 32 x 32 pixels; leave --img-size away"
        )
    vit = build_glyphs_tiny()
    _load(vit, source.weights or WEIGHTS)
    return Backbone(EMBEDDED_MODEL, vit, _EMBEDDED_INPUT)


def _create(source: Source) -> Vit:
    """Make a model of timm with random weights."""
    try:
        return _timm_model(source, pretrained=False)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        asked = "" if source.image_size is None else f" with --img-size {source.image_size}"
        raise BadInputError(f"timm cannot make {source.name}{asked}: {error}") from error


def _fetch(source: Source) -> Vit:
    """Make a model of timm with the weights timm names for it."""
    try:
        return _timm_model(source, pretrained=True)
    except (OSError, RuntimeError) as error:
        raise UnreachableError(
            f"the weights of {source.name} cannot be fetched ({type(error).__name__}): connect to the hub once, "
            "or pass --weights FILE.safetensors, or --no-pretrained for random ones"
        ) from error


def _timm_model(source: Source, *, pretrained: bool) -> Vit:
    options: dict[str, Any] = {} if source.image_size is None else {"img_size": source.image_size}
    return timm.create_model(source.name, pretrained=pretrained, num_classes=0, **options)


def _load(vit: Vit, path: Path) -> None:
    """Load a safetensors file with timm's names, resampling positions as timm does."""
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInputError(f"cannot read weights {path}: {error}") from error
    unused = ("norm.", "fc_norm.", "head.", "head_dist.")
    own = {name: tensor for name, tensor in vit.state_dict().items() if not name.startswith(unused)}
    given = {name: tensor for name, tensor in state.items() if not name.startswith(unused)}
    _check_weights(path, own, given)
    try:
        vit.load_state_dict(vision_transformer.checkpoint_filter_fn(given, vit), strict=False)
    except RuntimeError as error:
        rows = given["pos_embed"].shape[1]
        raise BadInputError(
            f"{path} has {rows} position rows, expected one for the CLS token and a square number of them for patches"
        ) from error


def _check_weights(path: Path, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Refuse weights of another model; the number of positions may differ, since they are resampled."""
    missing, unknown = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if missing or unknown:
        raise BadInputError(
            f"{path} is not of this model: {len(missing)} tensors are missing and {len(unknown)} are unknown, "
            f"first {(missing + unknown)[0]!r}"
        )
    for name, tensor in own.items():
        expected, found = list(tensor.shape), list(given[name].shape)
        if name == "pos_embed":
            expected[1:2], found[1:2] = [], []
        if expected != found:
            raise BadInputError(
                f"{path} is not of this model: {name!r} has shape {list(given[name].shape)}, "
                f"expected {list(tensor.shape)}"
            )


def _check_patches(name: str, vit: Vit) -> None:
    height, width = vit.patch_embed.img_size
    patch = vit.patch_embed.patch_size[0]
    if height != width or height % patch:
        raise BadInputError(
            f"image size {height} x {width}: {name} cuts square images into patches of {patch} pixels; "
            f"pass --img-size with a multiple of {patch}"
        )


def _check_architecture(name: str, vit: Vit) -> None:
    """Refuse what the exported block would not compute."""
    reason = None
    if not isinstance(vit, VisionTransformer):
        reason = f"it is a {type(vit).__name__}"
    elif type(vit.patch_embed) is not PatchEmbed:
        reason = f"it makes its patches with a {type(vit.patch_embed).__name__}"
    elif vit.cls_token is None or vit.num_prefix_tokens != 1:
        reason = "it does not have exactly one prefix token, the CLS token"
    elif not isinstance(vit.norm_pre, nn.Identity) or vit.no_embed_class:
        reason = "it normalises before the blocks or gives its CLS token no position"
    elif any(_block_reason(block) for block in vit.blocks):
        reason = next(filter(None, map(_block_reason, vit.blocks)))
    if reason is not None:
        raise UnknownModelError(f"edgefl cannot export {name}: {reason}. Supported are {_SUPPORTED}")


def _block_reason(block: Any) -> str | None:
    kind = type(block)  # a subclass computes something else
    if kind is not vision_transformer.Block:
        return f"its blocks are {kind.__name__}"
    if not isinstance(block.ls1, nn.Identity) or not isinstance(block.attn.q_norm, nn.Identity):
        return "its blocks scale layers or normalise queries"
    if block.attn.qkv.bias is None or not isinstance(block.mlp.act, nn.GELU):
        return "its blocks have no qkv bias or another activation than GELU"
    if not math.isclose(block.attn.scale, block.attn.head_dim**-0.5):
        return "its attention is scaled in another way"
    return None
