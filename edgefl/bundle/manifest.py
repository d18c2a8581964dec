"""The bundle's index, `manifest.json`: read strictly, written so that the same content gives the same bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import prod
from pathlib import PurePosixPath
from typing import Annotated, Literal

import msgspec

from edgefl.bundle.program import Graph, Program, check_answers, check_inputs, check_program
from edgefl.bundle.readable import readable_json
from edgefl.errors import ManifestError, NewerBundleError, PathOutsideError

__all__ = [
    "SCHEMA",
    "AdapterLayout",
    "Cost",
    "File",
    "Manifest",
    "Method",
    "Model",
    "Segment",
    "SelfTest",
    "Tensor",
    "Variant",
    "read_manifest",
]

SCHEMA = "edgefl.bundle/1"
_SCHEMA = re.compile(r"edgefl\.bundle/(\d{1,6})")

_Natural = Annotated[int, msgspec.Meta(ge=0)]
_Size = Annotated[int, msgspec.Meta(ge=1)]
_Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Size and hash of a file that never changes."""

    size: _Natural
    sha256: _Sha256


class Tensor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a tensor lies.

    Attributes:
        file: Path inside the bundle.
        offset: Bytes from the start of the file, a multiple of 4.
        shape: Shape as stored, of at least one axis.
        layout: `torch`, or `in_out` for a linear weight stored transposed, as (inputs, outputs).
    """

    file: str
    offset: Annotated[int, msgspec.Meta(ge=0, multiple_of=4)]
    shape: Annotated[list[_Size], msgspec.Meta(min_length=1)]
    layout: Literal["torch", "in_out"] = "torch"

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor; all tensors are float32."""
        return prod(self.shape) * 4


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The frozen backbone and its input.

    Attributes:
        name: timm's name, or the name of the embedded backbone.
        image_size: Height and width of a sample, in pixels.
        channels: Channels of a sample: 1 or 3.
        patch_size: Height and width of a patch, in pixels.
        width: Size of a token.
        blocks: Blocks of the backbone, all of which the exits may use.
        heads: Attention heads of a block.
        mlp_width: Hidden size of a block's FFN.
        classes: Number of classes.
        mean: Of a sample's channels, in 0..1, subtracted by the preprocessing graph.
        std: Of a sample's channels, divided by the preprocessing graph.
    """

    name: str
    image_size: _Size
    channels: Literal[1, 3]
    patch_size: _Size
    width: _Size
    blocks: _Size
    heads: _Size
    mlp_width: _Size
    classes: _Size
    mean: list[float]
    std: list[float]


class Method(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The learning system the adapter belongs to.

    Attributes:
        name: Such as `accumulator`.
        settings: Its configuration; informative on a device, part of the bundle's id.
    """

    name: str
    settings: dict[str, int | float | str | bool]


class Segment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The run of frozen blocks between one exit and the next."""

    exit_index: _Natural
    first_block: _Natural
    last_block: _Natural


class Cost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Counted cost of one program; all but its memory for one sample.

    Attributes:
        macs: Multiply-accumulates of the matrix products.
        parameters: Elements of all tensors it reads.
        trainable_parameters: Elements its gradient reaches; 0 for inference.
        planned_bytes: Largest sum of all tensors alive at once, without the mapped weights, at the program's batch, or
            for one sample where that is any; in training with the adapter and its velocity, and with what is packed.
    """

    macs: _Natural
    parameters: _Natural
    trainable_parameters: _Natural
    planned_bytes: _Natural


class Variant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program run in another way, which changes no answer: less memory or less time.

    Attributes:
        program: The program.
        batch: Samples at once, as of a program.
        packed: Whether it runs the packed graphs, where there are any.
    """

    program: str
    batch: _Size | None
    packed: bool


class SelfTest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device replays before it trusts itself.

    Attributes:
        file: Path inside the bundle of golden inputs and what they come to.
        exits: The tested exits, rising; the bundle's shallowest is the first of them.
        tolerance: Largest relative deviation that is accepted.
    """

    file: str
    exits: Annotated[list[_Natural], msgspec.Meta(min_length=1)]
    tolerance: Annotated[float, msgspec.Meta(gt=0, le=0.01)]


class AdapterLayout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the replaceable file must look.

    Attributes:
        file: Path inside the bundle.
        header_bytes: Length of its safetensors header, so that offsets never move.
        tensors: Its tensors, in order.
    """

    file: str
    header_bytes: _Size
    tensors: list[str]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bundle's index.

    Attributes:
        schema: `edgefl.bundle/1`.
        bundle_id: sha256 over model, method, frozen weights and the adapter's layout: bundles with one id can
            share adapters, whatever their formats and programs.
        model: The backbone.
        method: The learning system.
        exits: The exits exported, rising.
        segments: The frozen blocks between the exits.
        adapter: The layout of the adapter.
        tensors: Every tensor, frozen or trainable, as a slice of a file.
        graphs: Every graph that programs call.
        stand_alone: For each exit, the graph file that needs no program.
        programs: `preprocess`, `infer/E`, `anytime`, `train/E`.
        variants: What a memory knob makes of a program: `train/E/fast`, `infer/E/lean` and so on.
        costs: Counted cost of each program but `preprocess`, and of each variant.
        selftest: The golden values.
        files: Size and hash of every file but the manifest and the adapter.
    """

    schema: Literal["edgefl.bundle/1"]
    bundle_id: _Sha256
    model: Model
    method: Method
    exits: Annotated[list[_Natural], msgspec.Meta(min_length=1)]
    segments: list[Segment]
    adapter: AdapterLayout
    tensors: dict[str, Tensor]
    graphs: dict[str, Graph]
    stand_alone: dict[str, str]
    programs: dict[str, Program]
    variants: dict[str, Variant]
    costs: dict[str, Cost]
    selftest: SelfTest
    files: dict[str, File]

    def encode(self) -> bytes:
        """Return the manifest as JSON, one entry a line."""
        fields = json.loads(msgspec.json.encode(self))
        return readable_json(fields).encode()


def read_manifest(text: bytes) -> Manifest:
    """Decode and check a manifest.

    Raises:
        NewerBundleError: If a later edgefl wrote it.
        ManifestError: If it breaks its schema or contradicts itself.
        PathOutsideError: If it names a path outside the bundle.
    """
    try:
        schema = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).get("schema", msgspec.Raw(b"null"))
        _check_schema(bytes(schema).strip().strip(b'"').decode(errors="replace"))
        manifest = msgspec.json.decode(text, type=Manifest)
    # msgspec lets Python's own error through where bytes are no UTF-8.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"manifest.json is not valid: {error}; export the bundle again") from error
    _check(manifest)
    return manifest


def _check_schema(schema: str) -> None:
    if schema == SCHEMA:
        return
    if (match := _SCHEMA.fullmatch(schema)) and int(match[1]) > 1:
        raise NewerBundleError(f"this bundle has schema {schema}, this edgefl reads {SCHEMA}: update edgefl here")
    raise ManifestError(f"manifest.json has schema {schema[:60]!r}, expected {SCHEMA}")


def _check(manifest: Manifest) -> None:
    """Refuse what the schema allows and no exporter writes."""
    for path in [*manifest.files, manifest.adapter.file]:
        _check_path(path)
    if manifest.exits != sorted(set(manifest.exits)) or manifest.exits[-1] >= manifest.model.blocks:
        raise ManifestError(f"exits {manifest.exits} do not rise or leave the model's {manifest.model.blocks} blocks")
    _check_tensors(manifest)
    _check_graphs(manifest)
    shapes = {name: tensor.shape for name, tensor in manifest.tensors.items()}
    for name, program in manifest.programs.items():
        check_answers(name, program, manifest.exits)
        check_inputs(name, program)
        check_program(name, program, manifest.graphs, shapes)
        if program.mode != "preprocess" and name not in manifest.costs:
            raise ManifestError(f"program {name!r} has no entry in `costs`")
        _check_coverage(name, program, manifest.tensors, manifest.adapter.tensors)
    _check_variants(manifest)
    _check_selftest(manifest)


def _check_graphs(manifest: Manifest) -> None:
    packed = {name: graph.packed for name, graph in manifest.graphs.items() if graph.packed is not None}
    files = {graph.file for graph in manifest.graphs.values()} | {graph.file for graph in packed.values()}
    files |= set(manifest.stand_alone.values())
    if unlisted := sorted(files - manifest.files.keys()):
        raise ManifestError(f"{unlisted[0]!r} is used as a graph, its hash is not in `files`")
    for name, graph in packed.items():
        if len(set(graph.weights)) < len(graph.weights) or not set(graph.weights) <= set(manifest.graphs[name].inputs):
            raise ManifestError(f"packed graph {name!r} has weights {graph.weights}, which are not some of its inputs")


def _check_variants(manifest: Manifest) -> None:
    for name, variant in manifest.variants.items():
        varied = manifest.programs.get(variant.program)
        if varied is None or varied.mode == "preprocess" or not name.startswith(f"{variant.program}/"):
            raise ManifestError(f"variant {name!r} is of {variant.program!r}, which is no program of its name")
        if varied.mode != "train" and variant.batch is not None:
            raise ManifestError(f"variant {name!r} takes {variant.batch} samples; expected any number")
        if name in manifest.programs or name not in manifest.costs:
            raise ManifestError(f"variant {name!r} is a program too, or has no entry in `costs`")
        if variant.packed:
            _check_packed(name, varied, manifest)


def _check_packed(name: str, program: Program, manifest: Manifest) -> None:
    """Refuse to pack what is not frozen: a packed copy would not change with it."""
    frozen = manifest.tensors.keys() - set(manifest.adapter.tensors)
    for call in program.calls:
        graph = manifest.graphs[call.graph]
        given = dict(zip(graph.inputs, call.inputs, strict=True))
        for weight in graph.packed.weights if graph.packed else ():
            if given[weight].partition("[")[0] not in frozen:
                raise ManifestError(f"variant {name!r} packs {given[weight]!r}, which is no frozen tensor")


def _check_selftest(manifest: Manifest) -> None:
    selftest = manifest.selftest
    if selftest.file not in manifest.files:
        raise ManifestError(f"{selftest.file!r} is used as the self-test, its hash is not in `files`")
    rising = selftest.exits == sorted(set(selftest.exits) & set(manifest.exits))
    if not rising or selftest.exits[0] != manifest.exits[0]:
        raise ManifestError(
            f"the self-test has exits {selftest.exits}, expected some of {manifest.exits}, rising, with the first"
        )


def _check_path(path: str) -> None:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\\" in path or "\0" in path or ".." in parts or ":" in parts[0]:
        raise PathOutsideError(f"the manifest names {path!r}, which is outside the bundle; do not use this bundle")


def _check_tensors(manifest: Manifest) -> None:
    adapter = manifest.adapter
    if adapter.file in {"manifest.json", *manifest.files}:
        raise ManifestError(f"the adapter is {adapter.file!r}, a file that must never change")
    for name, tensor in manifest.tensors.items():
        if tensor.file != adapter.file:
            file = manifest.files.get(tensor.file)
            if file is None or tensor.offset + tensor.num_bytes > file.size:
                raise ManifestError(f"tensor {name!r} lies outside {tensor.file!r}")
    stored = sorted(name for name, tensor in manifest.tensors.items() if tensor.file == adapter.file)
    if sorted(adapter.tensors) != stored:
        raise ManifestError(f"the adapter lists {sorted(adapter.tensors)}, {adapter.file} holds {stored}")


def _check_coverage(name: str, program: Program, tensors: Mapping[str, Tensor], trainable: list[str]) -> None:
    try:
        for part in program.coverage:
            if part.name not in trainable:
                raise ManifestError(f"program {name!r} trains {part.key!r}, which is no adapter tensor")
            part.shape(tuple(tensors[part.name].shape))
    except ValueError as error:
        raise ManifestError(f"program {name!r}: {error}") from error
