"""Programs with packed weights (`--memory fast`): the same answers, frozen weights held by their sessions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgefl
from edgefl.errors import BundleError, ManifestError
from tests.golden_bundle import EXITS, GOLDEN, Fields, change_manifest, copy_golden, random_samples

Array = np.ndarray[Any, Any]


def answers(memory: str, folder: Path = GOLDEN) -> dict[str, Array]:
    """Return what a bundle with a knob answers at every exit, one after the other and on the way."""
    model = edgefl.load(folder, memory=memory)
    samples, _ = random_samples(3)
    found = {f"infer/{e}": prediction.logits for e in EXITS for prediction in model.infer(samples, e)}
    return found | {f"anytime/{p.exit_index}": p.logits for p in model.infer(samples)}


def test_packed_weights_change_no_answer() -> None:
    mapped, packed = answers("balanced"), answers("fast")

    assert packed.keys() == mapped.keys()
    for name, logits in mapped.items():
        np.testing.assert_allclose(packed[name], logits, rtol=1e-5, atol=1e-6, err_msg=name)


def test_packed_weights_change_no_gradient() -> None:
    samples, labels = random_samples(3)
    _, mapped = edgefl.load(GOLDEN, memory="balanced").train_step(samples, labels, exit_index=2)
    _, packed = edgefl.load(GOLDEN, memory="fast").train_step(samples, labels, exit_index=2)

    for name, gradient in mapped.items():
        np.testing.assert_allclose(packed[name], gradient, rtol=1e-4, atol=1e-7, err_msg=name)


def test_a_new_adapter_is_used_at_once_although_weights_are_packed() -> None:
    model = edgefl.load(GOLDEN, memory="fast")
    samples, _ = random_samples(1)
    (before,) = model.infer(samples, 1)
    changed = {name: np.array(array) for name, array in model.adapter.items()}
    changed["head.mlp.fc2.bias"][0] += 1.0
    model.use_adapter(changed)

    (after,) = model.infer(samples, 1)

    # The bias of class 0 is added to its logit and to nothing else.
    np.testing.assert_allclose(after.logits - before.logits, [[1, 0, 0, 0, 0]], atol=1e-6)


def test_each_block_has_a_session_of_its_own_only_where_weights_are_packed() -> None:
    samples, _ = random_samples(1)
    opened = {}
    for memory in ("balanced", "fast"):
        model = edgefl.load(GOLDEN, memory=memory)
        list(model.infer(samples, 2))
        opened[memory] = [graph for graph, _ in model._interpreter._graphs._open].count("block")

    # Exit 2 runs blocks 0 and 1 whole; of block 2 it computes one row, which is another graph.
    assert opened == {"balanced": 1, "fast": 2}


@pytest.mark.parametrize("knob", ["lean", "balanced"])
def test_other_knobs_open_no_packed_graph(tmp_path: Path, knob: str) -> None:
    bundle = copy_golden(tmp_path)
    for path in bundle.glob("*_packed.onnx"):
        path.write_bytes(path.read_bytes()[::-1])
    change_manifest(bundle, _hash_again(bundle))

    assert answers(knob, bundle).keys() == answers(knob).keys()


def test_a_packed_graph_with_other_inputs_is_refused(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)
    change_manifest(bundle, lambda fields: fields["graphs"]["block"]["packed"]["weights"].remove("norm1.bias"))

    with pytest.raises(ManifestError, match="graph 'block' has other inputs or outputs"):
        answers("fast", bundle)


def test_a_packed_graph_of_another_shape_is_refused(tmp_path: Path) -> None:
    bundle = copy_golden(tmp_path)

    def swap(fields: Fields) -> None:
        block = next(call for call in fields["programs"]["infer/1"]["calls"] if call["graph"] == "block")
        block["inputs"][block["inputs"].index("blocks.0.mlp.fc1.weight")] = "blocks.0.attn.proj.weight"

    change_manifest(bundle, swap)
    with pytest.raises(BundleError, match=r"cannot read .*block_packed\.onnx"):
        answers("fast", bundle)


def _hash_again(bundle: Path) -> Callable[[Fields], None]:
    def change(fields: Fields) -> None:
        for path in bundle.glob("*_packed.onnx"):
            fields["files"][path.name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()

    return change
