"""The embedded backbone: which images it was trained on, how, and what its file holds."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from edgefl.errors import SamplesError
from edgefl_export.embedded import glyphs
from edgefl_export.embedded.architecture import PIXEL_MEAN, PIXEL_STD, WEIGHTS, build_glyphs_tiny
from edgefl_export.embedded.glyphs import ALPHABET, GlyphBank, draw_bank, draw_batch
from edgefl_export.embedded.pretrain import ExitClassifier, Phase, endless_batches, optimise, pretrain

FONTS = Path(mpl.get_data_path()) / "fonts" / "ttf"
FOUR_MB = 4_000_000


@pytest.fixture(scope="module")
def bank() -> GlyphBank:
    return draw_bank(FONTS)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_alphabet_has_no_digit_and_no_character_twice() -> None:
    assert not [character for character in ALPHABET if character.isnumeric()]
    assert len(set(ALPHABET)) == len(ALPHABET) == 64


def test_a_glyph_fills_38_of_48_pixels_and_is_centred(tmp_path: Path) -> None:
    shutil.copy(FONTS / "DejaVuSans.ttf", tmp_path)
    bank = draw_bank(tmp_path)
    assert bank.fonts == 1
    assert bank.labels.tolist() == list(range(64))
    capital_h = bank.images[ALPHABET.index("H")]
    inked_rows = capital_h.amax(1).nonzero()[:, 0]
    # H is taller than wide: its height takes all 38 pixels, five stay free above and below.
    assert (inked_rows.min().item(), inked_rows.max().item()) == (5, 42)


def test_a_font_without_letters_is_left_out_whole(tmp_path: Path) -> None:
    shutil.copy(FONTS / "DejaVuSans.ttf", tmp_path)
    shutil.copy(FONTS / "STIXSizThreeSymReg.ttf", tmp_path)
    bank = draw_bank(tmp_path)
    assert bank.fonts == 1
    assert len(bank.images) == 64


def test_a_folder_without_text_fonts_is_refused(tmp_path: Path) -> None:
    shutil.copy(FONTS / "STIXSizThreeSymReg.ttf", tmp_path)
    with pytest.raises(SamplesError, match="no Latin text font"):
        draw_bank(tmp_path)


def test_a_file_that_only_calls_itself_a_font_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "hostile.ttf").write_bytes(b"\x00\x01\x00\x00" + b"\xff" * 64)
    with pytest.raises(SamplesError, match=r"hostile\.ttf"):
        draw_bank(tmp_path)


def test_one_seed_draws_one_batch_and_another_seed_another(bank: GlyphBank) -> None:
    images, labels = draw_batch(bank, 64, seeded(3))
    again, labels_again = draw_batch(bank, 64, seeded(3))
    other, other_labels = draw_batch(bank, 64, seeded(4))
    assert torch.equal(images, again)
    assert torch.equal(labels, labels_again)
    assert not torch.equal(images, other)
    assert not torch.equal(labels, other_labels)


def test_chance_comes_from_the_generator_alone(bank: GlyphBank) -> None:
    torch.manual_seed(0)
    images, _ = draw_batch(bank, 64, seeded(3))
    torch.manual_seed(1)
    assert torch.equal(images, draw_batch(bank, 64, seeded(3))[0])


def test_a_training_never_sees_a_batch_twice(bank: GlyphBank) -> None:
    batches = endless_batches(bank, 3)
    first, second = next(batches)[0], next(batches)[0]
    assert first.shape == (128, 1, 32, 32)
    assert not torch.equal(first, second)


def test_images_are_bright_ink_on_black_between_0_and_1(bank: GlyphBank) -> None:
    images, labels = draw_batch(bank, 256, seeded(0))
    assert images.shape == (256, 1, 32, 32)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.amax((1, 2, 3)).median() > 0.8
    # Ink covers less than half of a letter's box; inverted images would be mostly bright.
    assert images.mean() < 0.5
    assert set(labels.tolist()) <= set(range(64))


def test_ink_spans_from_its_first_to_its_last_pixel_and_blank_spans_all() -> None:
    profiles = torch.tensor([[[0.0, 0.0, 1.0, 0.0, 1.0, 0.0]], [[0.0] * 6]])
    first, last = glyphs._ink_span(profiles)
    assert first.tolist() == [2, 0]
    assert last.tolist() == [4, 5]


def test_cropping_makes_a_small_square_in_a_corner_fill_the_image() -> None:
    images = torch.zeros(32, 1, 48, 48)
    images[:, :, 4:10, 33:39] = 1
    cropped = glyphs._crop_to_ink(images, seeded(0))
    # Height grows by up to 1.15 and width by up to 1.15 more: at least 1 / 1.15**3 = 66 % stays ink;
    # a centre off by a pixel would lose a sixth of it.
    assert cropped.mean((1, 2, 3)).min() > 0.62
    assert torch.equal(cropped[:, :, 16, 16], torch.ones(32, 1))


def test_thinning_a_hairline_does_not_erase_it() -> None:
    images = torch.zeros(64, 1, 48, 48)
    images[:, :, 8:40, 24] = 1
    widths = glyphs._change_stroke(images, seeded(0))[:, 0, 24].sum(1)
    # As it was (kept and "thinned"), 3 pixels thick, 5 pixels thick.
    assert sorted(set(widths.tolist())) == [1, 3, 5]


def test_pooling_leaves_no_detail_finer_than_a_twelfth() -> None:
    checkerboard = (torch.arange(32)[:, None] + torch.arange(32)) % 2
    pooled = glyphs._pool_and_enlarge(checkerboard.float().expand(64, 1, 32, 32), seeded(0))
    # 32 / 8 = 4 pixels average to exactly one half; 32 / 9 to 12 pixels average unevenly, never to 0 or 1.
    assert pooled.min() > 0.3
    assert pooled.max() < 0.7


def test_the_learning_rate_warms_up_and_falls_as_half_a_cosine() -> None:
    phase = Phase(heads=1, steps=100, peak_rate=2e-3, warm_up=0.1)
    assert phase.rate(0) == pytest.approx(1e-5)
    assert phase.rate(5) == pytest.approx(2e-3 * 0.5 * (1 + math.cos(math.pi * 0.05)) / 2 + 1e-5)
    assert phase.rate(50) == pytest.approx(1e-3 + 1e-5)
    assert phase.rate(99) < 2e-5


@pytest.mark.parametrize("heads", [12, 1])
def test_every_exit_reads_the_cls_token_after_its_block_without_a_norm(heads: int, bank: GlyphBank) -> None:
    torch.manual_seed(0)
    model = ExitClassifier(build_glyphs_tiny(), heads).eval()
    images, _ = draw_batch(bank, 4, seeded(0))
    tokens = model.backbone._pos_embed(model.backbone.patch_embed((images - PIXEL_MEAN) / PIXEL_STD))
    expected = []
    for index, block in enumerate(model.backbone.blocks):
        tokens = block(tokens)
        expected.append(model.heads[index if heads == 12 else 0](tokens[:, 0]))
    torch.testing.assert_close(model(images), torch.stack(expected))


def test_a_phase_trains_the_backbone_for_exactly_its_steps(bank: GlyphBank) -> None:
    torch.manual_seed(0)
    model = ExitClassifier(build_glyphs_tiny(), 12)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    phase = Phase(heads=12, steps=2, peak_rate=1e-3, warm_up=0.5)
    assert list(optimise(model, phase, endless_batches(bank, 0))) == [1, 2]
    unchanged = [name for name, value in model.state_dict().items() if torch.equal(value, before[name])]
    assert unchanged == []


@pytest.mark.slow
def test_one_command_writes_one_file_byte_for_byte(tmp_path: Path) -> None:
    fonts = tmp_path / "fonts"
    fonts.mkdir()
    shutil.copy(FONTS / "DejaVuSans.ttf", fonts)

    def run(seed: int, name: str) -> bytes:
        out = tmp_path / name
        arguments = ["--fonts", str(fonts), "--seed", str(seed), "--steps", "2", "1", "--out", str(out)]
        result = CliRunner().invoke(pretrain, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        assert "64 glyphs of 1 fonts, 64 classes" in result.output
        return out.read_bytes()

    first = run(5, "first.safetensors")
    assert first == run(5, "second.safetensors")
    assert first != run(6, "third.safetensors")


def test_a_folder_without_fonts_is_a_usage_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(pretrain, ["--fonts", str(tmp_path), "--seed", "0", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "no Latin text font" in result.output


def test_the_file_takes_at_most_4_mb() -> None:
    assert WEIGHTS.stat().st_size <= FOUR_MB


def test_the_file_holds_what_timm_expects_but_for_the_unused_final_norm() -> None:
    plain = VisionTransformer(
        img_size=32, patch_size=8, in_chans=1, num_classes=0, embed_dim=96, depth=12, num_heads=3, mlp_ratio=2
    )
    expected = {name: value.shape for name, value in plain.state_dict().items() if not name.startswith("norm.")}
    stored = load_file(WEIGHTS)
    assert {name: value.shape for name, value in stored.items()} == expected
    assert {value.dtype for value in stored.values()} == {torch.float32}
    assert [name for name, value in stored.items() if not value.isfinite().all()] == []


def test_the_file_loads_strictly_into_the_architecture() -> None:
    backbone = build_glyphs_tiny()
    backbone.load_state_dict(load_file(WEIGHTS), strict=True)
    # 12 blocks of 74,784, the patch embedding's 6,240, 17 positions and the CLS token of 96 each.
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 12 * 74_784 + 6_240 + 18 * 96


def test_the_file_says_how_it_was_made() -> None:
    with safe_open(WEIGHTS, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["seed"] == "0"
    assert f"--seed 0 --steps {metadata['steps']}" in metadata["command"]
    assert len(metadata["glyph_bank_sha256"]) == 64
