"""A bundle's identity and bytes, and the folder that appears whole or not at all."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest

from edgefl.bundle.manifest import Manifest
from edgefl.core.tensors import TensorFile
from edgefl.errors import BadInputError, ParityError, StorageError
from edgefl_export.bundle import BundleParts, write_bundle
from edgefl_export.compose import Composer
from edgefl_export.exporter import ExportResult, export_bundle
from edgefl_export.folder import new_folder
from edgefl_export.graphs.catalog import Catalog
from edgefl_export.model.network import AccumulatorNetwork
from tests.export.networks import small_network
from tests.golden.make_bundle import FOLDER, export_golden, golden_network

Graphs = Mapping[str, onnx.ModelProto]


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[], Path]:
    """Make a new empty folder at each call."""

    def make() -> Path:
        path = tmp_path / f"bundle{len(list(tmp_path.iterdir()))}"
        path.mkdir()
        return path

    return make


def written(folder: Path, network: AccumulatorNetwork, exits: tuple[int, ...] = (0, 1, 2)) -> Manifest:
    """Write the weights of a network alone; no program and no graph enters the id."""
    return write_bundle(folder, BundleParts(network=network, exits=exits, programs={}, variants={}, graphs={}))


def test_the_bundle_kept_for_the_device_tests_is_what_an_export_writes_today(golden_export: ExportResult) -> None:
    kept, fresh = ({path.name for path in folder.iterdir()} for folder in (FOLDER, golden_export.folder))
    assert kept == fresh
    for name in ("backbone.safetensors", "adapter.safetensors"):
        assert (FOLDER / name).read_bytes() == (golden_export.folder / name).read_bytes()

    # Another torch may number nodes in another way, so the hashes of graphs are compared in the slow test below, with
    # one torch; a change to edgefl itself shows here, and `python -m tests.golden.make_bundle` answers it.
    def facts(folder: Path) -> dict[str, Any]:
        manifest: dict[str, Any] = msgspec.json.decode((folder / "manifest.json").read_bytes())
        return {key: value for key, value in manifest.items() if key != "files"}

    assert facts(FOLDER) == facts(golden_export.folder)


@pytest.mark.slow
def test_two_exports_of_one_network_are_the_same_bytes(golden_export: ExportResult, tmp_path: Path) -> None:
    export_golden(tmp_path / "again")
    for path in golden_export.folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_exits_and_batch_of_the_programs_leave_the_bundle_id_alone(
    golden_export: ExportResult, golden_graphs: Graphs, folder: Callable[[], Path]
) -> None:
    network = golden_network()
    composer = Composer(Catalog(network))
    programs = {"infer/2": composer.infer(2), "train/2": composer.train(2, 9)}
    other = write_bundle(
        folder(), BundleParts(network=network, exits=(2,), programs=programs, variants={}, graphs=golden_graphs)
    ).bundle_id
    first = msgspec.json.decode((golden_export.folder / "manifest.json").read_bytes(), type=Manifest)
    assert first.programs["train/2"].batch == 5
    assert other == first.bundle_id


def test_the_adapters_values_leave_the_bundle_id_alone(folder: Callable[[], Path]) -> None:
    network = golden_network()
    before = written(folder(), network).bundle_id
    network.head.norm.bias.data += 1
    assert written(folder(), network).bundle_id == before


@pytest.mark.parametrize(
    "settings", [{"mlp_dim": 8}, {"classes": 4}, {"heads": 4}, {"parallel_adapter_scale": 0.2}, {"replace": False}]
)
def test_another_method_is_another_bundle(settings: dict[str, Any], folder: Callable[[], Path]) -> None:
    assert written(folder(), small_network()).bundle_id != written(folder(), small_network(**settings)).bundle_id


def test_one_bit_of_a_frozen_weight_is_another_bundle(folder: Callable[[], Path]) -> None:
    network = small_network()
    before = written(folder(), network).bundle_id
    network.backbone.blocks[0].norm1.weight.data[0] += 1e-7
    assert written(folder(), network).bundle_id != before


def test_blocks_below_the_deepest_exit_are_left_out(folder: Callable[[], Path]) -> None:
    manifest = written(folder(), small_network(), exits=(0, 2))
    assert "blocks.2.mlp.fc1.weight" in manifest.tensors
    assert "blocks.3.mlp.fc1.weight" not in manifest.tensors
    segments = [(segment.exit_index, segment.first_block, segment.last_block) for segment in manifest.segments]
    assert segments == [(0, 0, 0), (2, 1, 2)]


def test_weights_are_stored_as_the_layout_says_and_aligned(folder: Callable[[], Path]) -> None:
    network, path = small_network(), folder()
    manifest, frozen = written(path, network), TensorFile(path / "backbone.safetensors")
    for name in frozen.entries:
        layout, tensor = manifest.tensors[name].layout, network.backbone.frozen()[name]
        assert layout == ("in_out" if name.endswith(("attn.proj.weight", "mlp.fc2.weight")) else "torch")
        assert frozen[name].tolist() == (tensor.T if layout == "in_out" else tensor).tolist()
    multiples = [entry.offset % 64 == 0 for entry in frozen.entries.values() if entry.num_bytes % 64 == 0]
    assert multiples
    assert all(multiples)


def export_exit_0(network: AccumulatorNetwork, out: Path, progress: Callable[[str, int, int], None]) -> ExportResult:
    return export_bundle(network, (0,), out, batch=4, seed=0, force=False, progress=progress)


@pytest.mark.slow
def test_a_bundle_that_computes_something_else_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    network = small_network()
    # timm's blocks have one epsilon for both norms, and so has the exported block; this one has two.
    network.backbone.blocks[0].norm2.eps = 0.5
    with pytest.raises(ParityError, match=r"exit 0: .* are off by .* no bundle was written"):
        export_exit_0(network, tmp_path / "bundle", lambda *_: None)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        del what, total
        if done == 1:
            assert len(list(tmp_path.iterdir())) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_exit_0(small_network(), tmp_path / "bundle", interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole_under_its_name(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "bundle"
    with new_folder(out, force=False) as partial:
        (partial / "manifest.json").write_text("{}")
        assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]
    assert out.stat().st_mode & 0o777 == 0o755


def test_folders_made_on_the_way_go_with_a_bundle_that_was_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ParityError):
        write_and_fail(tmp_path / "mine" / "deep" / "deeper" / "bundle")
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]


def write_and_fail(out: Path) -> None:
    with new_folder(out, force=True) as partial:
        (partial / "manifest.json").write_text("new")
        raise ParityError("off")


def test_an_old_bundle_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "manifest.json").write_text("old")
    with pytest.raises(ParityError):
        write_and_fail(out)
    assert (out / "manifest.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]
    with new_folder(out, force=True) as partial:
        (partial / "manifest.json").write_text("new")
    assert (out / "manifest.json").read_text() == "new"
    assert list(tmp_path.iterdir()) == [out]


def test_what_took_the_name_during_an_export_stays(tmp_path: Path) -> None:
    out = tmp_path / "bundle"

    def export_meanwhile() -> None:
        with new_folder(out, force=False) as partial:
            (partial / "manifest.json").write_text("{}")
            out.mkdir()
            (out / "precious.txt").write_text("x")

    with pytest.raises(BadInputError, match="exists and is no bundle"):
        export_meanwhile()
    assert [path.name for path in tmp_path.rglob("*")] == ["bundle", "precious.txt"]


def test_an_old_bundle_stays_whole_where_the_new_one_cannot_take_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rename = tmp_path / "bundle", Path.rename
    out.mkdir()
    (out / "manifest.json").write_text("old")

    def refuse_new(self: Path, target: Path) -> Path:
        if target == out and not self.name.endswith(".old"):
            raise OSError(errno.EBUSY, "Device or resource busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_new)
    with pytest.raises(StorageError, match="Device or resource busy"), new_folder(out, force=True) as partial:
        (partial / "manifest.json").write_text("new")
    assert (out / "manifest.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_bundle_is_replaced_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(BadInputError, match=r"exists; pass --force"), new_folder(tmp_path, force=False):
        pass


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_no_bundle_is_never_replaced(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
    elif kind == "file":
        out.write_text("years of work")
    else:
        (tmp_path / "bundle").mkdir()
        (tmp_path / "bundle" / "manifest.json").write_text("{}")
        out.symlink_to(tmp_path / "bundle")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInputError, match="exists and is no bundle"), new_folder(out, force=True):
        pass
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "advice"), [("file/bundle", "choose another --out"), ("x" * 300, "choose an --out you may write")]
)
def test_a_folder_that_cannot_be_made_is_refused_by_name(name: str, advice: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = rf"cannot write .*{advice}"
    with pytest.raises(StorageError, match=message), new_folder(tmp_path / name, force=False):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
