"""Backbones: what timm gives, one's own weights, and everything that is refused before an export starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from edgefl.errors import BadInputError, UnknownModelError
from edgefl_export.embedded.architecture import WEIGHTS
from edgefl_export.model.backbone import Backbone, Source, load_backbone

DEIT_TINY = "deit_tiny_patch16_224"


@pytest.fixture(scope="module")
def deit_weights() -> dict[str, Tensor]:
    """Weights as timm has them, with a classifier of 1000 classes and a final norm."""
    torch.manual_seed(5)
    model = timm.create_model(DEIT_TINY, pretrained=False)
    return {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}


def load_with(weights: dict[str, Tensor], folder: Path, name: str = DEIT_TINY, image_size: int = 64) -> Backbone:
    save_file(weights, folder / "own.safetensors")
    return load_backbone(Source(name=name, weights=folder / "own.safetensors", image_size=image_size))


def test_the_embedded_backbone_has_the_weights_of_its_file() -> None:
    backbone = load_backbone(Source(name="glyphs_tiny_patch8_32"))
    stored = load_file(WEIGHTS)
    assert backbone.frozen().keys() == stored.keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in backbone.frozen().items())
    facts = (backbone.width, backbone.heads, backbone.mlp_width, len(backbone.blocks), backbone.tokens)
    assert facts == (96, 3, 192, 12, 17)
    assert (backbone.image_size, backbone.patch_size, backbone.channels) == (32, 8, 1)


def test_the_embedded_backbone_has_one_image_size() -> None:
    with pytest.raises(BadInputError, match="image size 64: glyphs_tiny_patch8_32 reads 32 x 32 pixels"):
        load_backbone(Source(name="glyphs_tiny_patch8_32", image_size=64))


def test_nothing_of_a_backbone_is_trained_or_drops_out() -> None:
    backbone = load_backbone(Source(name=DEIT_TINY, pretrained=False, image_size=32))
    assert not backbone.vit.training
    assert not [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]


def test_random_weights_come_from_the_seed() -> None:
    def first_weight(seed: int) -> Tensor:
        source = Source(name=DEIT_TINY, pretrained=False, image_size=32, seed=seed)
        return load_backbone(source).frozen()["blocks.0.attn.qkv.weight"]

    assert torch.equal(first_weight(3), first_weight(3))
    assert not torch.equal(first_weight(3), first_weight(4))


def test_a_backbone_embeds_and_names_its_tensors_as_timm_does() -> None:
    backbone = load_backbone(Source(name=DEIT_TINY, pretrained=False, image_size=48))
    model = timm.create_model(DEIT_TINY, pretrained=False, img_size=48)
    used = {name for name in model.state_dict() if not name.startswith(("norm.", "head."))}
    assert backbone.frozen().keys() == used
    samples = torch.randn(2, 3, 48, 48)
    patches = backbone.vit.patch_embed(samples)
    cls = backbone.vit.cls_token.expand(2, -1, -1)
    assert torch.equal(backbone.embed(samples), torch.cat([cls, patches], dim=1) + backbone.vit.pos_embed)
    assert backbone.tokens == 10


def test_the_input_range_is_timms_own() -> None:
    preprocessing = load_backbone(Source(name=DEIT_TINY, pretrained=False)).preprocessing
    assert preprocessing.mean == (0.485, 0.456, 0.406)
    assert preprocessing.std == (0.229, 0.224, 0.225)
    # crop_pct 0.9 of 224 pixels: the shorter side becomes floor(224 / 0.9).
    assert (preprocessing.image_size, preprocessing.resize_to) == (224, 248)
    assert preprocessing.interpolation == "bicubic"


def test_own_weights_load_with_and_without_head_and_final_norm(deit_weights: dict[str, Tensor], tmp_path: Path) -> None:
    bare = {name: tensor for name, tensor in deit_weights.items() if not name.startswith(("head.", "norm."))}
    with_head, without = load_with(deit_weights, tmp_path, image_size=224), load_with(bare, tmp_path, image_size=224)
    for name, tensor in bare.items():
        assert torch.equal(with_head.frozen()[name], tensor)
        assert torch.equal(without.frozen()[name], tensor)


def test_positions_are_resampled_as_timm_does_for_another_image_size(
    deit_weights: dict[str, Tensor], tmp_path: Path
) -> None:
    positions = load_with(deit_weights, tmp_path, image_size=160).frozen()["pos_embed"]
    # 14 x 14 patches become 10 x 10; the CLS token's row stays.
    expected = resample_abs_pos_embed(deit_weights["pos_embed"], [10, 10])
    assert positions.shape == (1, 101, 192)
    torch.testing.assert_close(positions, expected)
    assert torch.equal(positions[:, 0], deit_weights["pos_embed"][:, 0])


def test_weights_of_a_wider_model_are_refused_by_tensor(deit_weights: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"'cls_token' has shape \[1, 1, 192\], expected \[1, 1, 384\]"):
        load_with(deit_weights, tmp_path, name="deit_small_patch16_224")


def test_weights_that_lack_a_tensor_are_refused_by_its_name(deit_weights: dict[str, Tensor], tmp_path: Path) -> None:
    lacking = {name: tensor for name, tensor in deit_weights.items() if name != "blocks.3.norm1.bias"}
    with pytest.raises(BadInputError, match=r"1 tensors are missing and 0 are unknown, first 'blocks\.3\.norm1\.bias'"):
        load_with(lacking, tmp_path)


def test_weights_with_a_tensor_too_many_are_refused_by_its_name(
    deit_weights: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match=r"0 tensors are missing and 1 are unknown, first 'blocks\.0\.ls1\.gamma'"):
        load_with(deit_weights | {"blocks.0.ls1.gamma": torch.ones(192)}, tmp_path)


def test_positions_that_are_no_square_are_refused(deit_weights: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="has 196 position rows, expected one for the CLS token and a square"):
        load_with(deit_weights | {"pos_embed": deit_weights["pos_embed"][:, 1:].contiguous()}, tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 64, b"\x02\x00\x00\x00\x00\x00\x00\x00[]"])
def test_a_file_that_holds_no_weights_is_refused_by_name(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInputError, match=r"cannot read weights .*own\.safetensors"):
        load_backbone(Source(name=DEIT_TINY, weights=path))


@pytest.mark.parametrize("image_size", [100, 8, 0, -16])
def test_an_image_size_that_patches_do_not_fill_is_refused(image_size: int) -> None:
    with pytest.raises(BadInputError, match=rf"(image|--img)[- ]size {image_size}\b.*"):
        load_backbone(Source(name=DEIT_TINY, pretrained=False, image_size=image_size))


@pytest.mark.parametrize(
    ("name", "width", "patches"),
    [
        ("deit_tiny_patch16_224", 192, 4),
        ("deit_small_patch16_224", 384, 4),
        ("deit_base_patch16_224", 768, 4),
        ("vit_tiny_patch16_224", 192, 4),
        ("vit_small_patch32_224", 384, 1),
        ("vit_base_patch8_224", 768, 16),
        ("vit_base_patch16_384", 768, 4),
    ],
)
def test_plain_transformers_of_timm_are_taken_at_any_size_their_patches_fill(
    name: str, width: int, patches: int
) -> None:
    backbone = load_backbone(Source(name=name, pretrained=False, image_size=32))
    assert (backbone.width, backbone.image_size, backbone.tokens, len(backbone.blocks)) == (width, 32, patches + 1, 12)


@pytest.mark.parametrize(
    ("name", "near"),
    [("deit_smal_patch16_224", "deit_small_patch16_224"), ("glyphs_tiny_patch8", "glyphs_tiny_patch8_32")],
)
def test_a_misspelt_model_is_refused_with_names_near_it(name: str, near: str) -> None:
    with pytest.raises(UnknownModelError, match=rf"no model '{name}'; near it: .*\b{near}\b"):
        load_backbone(Source(name=name))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("deit_tiny_distilled_patch16_224", "it does not have exactly one prefix token"),
        ("vit_small_patch14_reg4_dinov2", "it does not have exactly one prefix token"),
        ("vit_small_patch14_dinov2", "its blocks scale layers"),
        ("deit3_small_patch16_224", "gives its CLS token no position"),
        ("vit_small_resnet26d_224", "it makes its patches with a HybridEmbed"),
        ("swin_tiny_patch4_window7_224", "it is a SwinTransformer"),
    ],
)
def test_a_model_whose_blocks_are_others_is_refused_before_anything_is_fetched(name: str, reason: str) -> None:
    # Without a network a fetch would end in UnreachableError.
    with pytest.raises(UnknownModelError, match=f"edgefl cannot export {name}: .*{reason}.*Supported are"):
        load_backbone(Source(name=name, pretrained=True))


def test_a_tag_that_timm_does_not_have_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"timm cannot make deit_tiny_patch16_224\.nobody: .*nobody"):
        load_backbone(Source(name=f"{DEIT_TINY}.nobody"))
