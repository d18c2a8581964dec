"""The manifest: what is read, and that the same content gives the same bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgefl.bundle.manifest import Manifest, read_manifest
from edgefl.core.tensor_slice import merge_slices
from edgefl.core.tensors import TensorFile
from edgefl.errors import ManifestError
from tests.golden_bundle import GOLDEN

TEXT = (GOLDEN / "manifest.json").read_bytes()


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(TEXT) | fields).encode()


def test_a_manifest_says_which_model_method_and_exits_it_has() -> None:
    manifest = read_manifest(TEXT)

    assert manifest.schema == "edgefl.bundle/1"
    assert (manifest.model.name, manifest.model.image_size, manifest.model.classes) == ("golden", 16, 5)
    assert (manifest.method.name, manifest.method.settings["mlp_dim"]) == ("accumulator", 32)
    assert manifest.exits == [0, 1, 2]
    assert [(s.exit_index, s.first_block, s.last_block) for s in manifest.segments] == [(0, 0, 0), (1, 1, 1), (2, 2, 2)]


def test_what_is_written_is_read_back_and_has_the_same_bytes() -> None:
    manifest = read_manifest(TEXT)

    assert manifest.encode() == TEXT
    assert read_manifest(manifest.encode()) == manifest


def test_a_person_finds_each_tensor_graph_and_call_on_a_line_of_its_own() -> None:
    lines = read_manifest(TEXT).encode().decode().splitlines()

    assert sum('"offset"' in line for line in lines) == len(read_manifest(TEXT).tensors)
    assert max(line.count('"graph":') for line in lines) == 1
    assert lines[1] == '"schema": "edgefl.bundle/1",'


@pytest.mark.parametrize("file", ["backbone.safetensors", "adapter.safetensors"])
def test_tensors_lie_where_the_weight_files_say(file: str) -> None:
    stated = {n: (t.offset, tuple(t.shape)) for n, t in read_manifest(TEXT).tensors.items() if t.file == file}

    assert stated == {name: (entry.offset, entry.shape) for name, entry in TensorFile(GOLDEN / file).entries.items()}


def test_only_linear_weights_whose_columns_are_sliced_are_stored_transposed() -> None:
    transposed = {name for name, tensor in read_manifest(TEXT).tensors.items() if tensor.layout == "in_out"}

    assert transposed == {f"blocks.{b}.{name}.weight" for b in range(3) for name in ("attn.proj", "mlp.fc2")}


@pytest.mark.parametrize("exit_index", [0, 1, 2])
def test_a_training_program_covers_what_its_exit_reaches(exit_index: int) -> None:
    manifest = read_manifest(TEXT)
    names = manifest.adapter.tensors
    sliced = [name for name in names if name.startswith("parallel_adapters.")]
    whole = [name for name in names if name not in {"accumulator.positions", *sliced}]

    coverage = merge_slices(manifest.programs[f"train/{exit_index}"].coverage)

    assert {part.key for part in coverage} == {
        *whole,
        f"accumulator.positions[0:{exit_index + 2}]",
        *(f"{name}[0:{exit_index + 1}]" for name in sliced),
    }


def test_a_manifest_of_nothing_but_an_adapter_and_a_self_test_is_a_manifest() -> None:
    fields = json.loads(TEXT)
    fields |= {
        "graphs": {},
        "stand_alone": {},
        "programs": {},
        "variants": {},
        "costs": {},
        "files": {"selftest.safetensors": fields["files"]["selftest.safetensors"]},
        "segments": [],
    }
    fields["tensors"] = {name: fields["tensors"][name] for name in fields["adapter"]["tensors"]}

    manifest = read_manifest(json.dumps(fields).encode())

    assert isinstance(manifest, Manifest)
    assert manifest.programs == {}


@pytest.mark.parametrize("exits", [[], [1, 0], [0, 0], [0, 3], [-1]])
def test_exits_rise_and_stay_inside_the_model(exits: list[int]) -> None:
    with pytest.raises(ManifestError):
        read_manifest(changed(exits=exits))
