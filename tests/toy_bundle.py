"""A bundle with an adapter and no graph: enough for everything that moves adapters and never runs them.

Its method has what aggregation must tell apart: `head.weight`, which every exit trains; `positions`, of which exit e
trains the rows 0..e+1; and one parallel adapter beside each block, which only clients that reach it train.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from edgefl.bundle.adapter import Adapter, FloatArray, encode_adapter
from edgefl.bundle.manifest import AdapterLayout, File, Manifest, Method, Model, SelfTest, Tensor
from edgefl.core.tensors import TensorFile, encode_tensors

EXITS = [0, 2, 5, 8, 11]
BLOCKS = 12
WIDTH = 4


def toy_tensors(seed: int = 0) -> dict[str, FloatArray]:
    """Return the adapter's tensors, random."""
    random = np.random.default_rng(seed)
    shapes = {"head.weight": (WIDTH, WIDTH), "positions": (BLOCKS + 1, WIDTH)}
    shapes |= {f"parallel.{block}.weight": (WIDTH, WIDTH) for block in range(BLOCKS)}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def toy_coverage(exit_index: int) -> list[str]:
    """Return the keys that training up to an exit reaches."""
    return ["head.weight", f"positions[0:{exit_index + 2}]", *(f"parallel.{b}.weight" for b in range(exit_index + 1))]


def write_toy_bundle(folder: Path, seed: int = 0) -> Path:
    """Write the bundle into a folder and return the folder.

    Args:
        folder: Where; created.
        seed: Of the adapter's values. Bundles of different seeds have different ids.
    """
    folder.mkdir(parents=True)
    bundle_id = hashlib.sha256(f"toy {seed}".encode()).hexdigest()
    adapter = Adapter(bundle_id=bundle_id, version=0, round=0, tensors=toy_tensors(seed))
    path = folder / "adapter.safetensors"
    path.write_bytes(b"".join(encode_adapter(adapter)))
    file = TensorFile(path)
    nothing = b"".join(encode_tensors({}))
    (folder / "selftest.safetensors").write_bytes(nothing)
    manifest = Manifest(
        schema="edgefl.bundle/1",
        bundle_id=bundle_id,
        model=Model(
            name="toy", image_size=8, channels=1, patch_size=4, width=WIDTH, blocks=BLOCKS, heads=1, mlp_width=8,
            classes=WIDTH, mean=[0.0], std=[1.0],
        ),
        method=Method(name="toy", settings={}),
        exits=EXITS,
        segments=[],
        adapter=AdapterLayout(file=path.name, header_bytes=file.header_bytes, tensors=list(adapter.tensors)),
        tensors={
            name: Tensor(file=path.name, offset=entry.offset, shape=list(entry.shape))
            for name, entry in file.entries.items()
        },
        graphs={},
        stand_alone={},
        programs={},
        variants={},
        costs={},
        selftest=SelfTest(file="selftest.safetensors", exits=EXITS[:1], tolerance=1e-4),
        files={"selftest.safetensors": File(size=len(nothing), sha256=hashlib.sha256(nothing).hexdigest())},
    )  # fmt: skip
    (folder / "manifest.json").write_bytes(manifest.encode())
    return folder
