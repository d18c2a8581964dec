"""`exit_XX.onnx` in an app that has ONNX Runtime and nothing of edgefl."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgefl.core.tensors import TensorFile
from edgefl.runtime.model import Model
from edgefl_export.exporter import ExportResult

EXITS = (0, 1, 2)
STOCK = """
import sys
import numpy, onnxruntime
folder, inputs, outputs = sys.argv[1:]
samples, answers = numpy.load(inputs), {}
for exit_index in (0, 1, 2):
    session = onnxruntime.InferenceSession(f"{folder}/exit_{exit_index:02d}.onnx")
    for batch in (1, 7):
        answers[f"{batch} {exit_index}"] = session.run(["logits"], {"samples": samples[:batch]})[0]
numpy.savez(outputs, **answers)
assert not [module for module in sys.modules if module.startswith(("edgefl", "onnx.", "torch"))]
"""


SAMPLES = np.random.default_rng(7).standard_normal((7, 1, 16, 16)).astype(np.float32)


def answers_of_a_stock_runtime(folder: Path, scratch: Path) -> dict[str, Any]:
    """Run every exit in a fresh process on one and on seven samples; keys of the answer are `batch exit`."""
    np.save(scratch / "inputs.npy", SAMPLES)
    arguments = [str(path) for path in (folder, scratch / "inputs.npy", scratch / "outputs.npz")]
    subprocess.run([sys.executable, "-c", STOCK, *arguments], check=True, timeout=120, cwd=scratch)
    return dict(np.load(scratch / "outputs.npz"))


def test_a_stock_runtime_gives_the_programs_answers_for_any_batch(
    golden_export: ExportResult, golden_model: Model, tmp_path: Path
) -> None:
    answers = answers_of_a_stock_runtime(golden_export.folder, tmp_path)
    assert len(answers) == 6
    for key, logits in answers.items():
        batch, exit_index = map(int, key.split())
        (prediction,) = golden_model.infer(SAMPLES[:batch], exit_index)
        np.testing.assert_allclose(logits, prediction.logits, rtol=1e-5, atol=1e-6)


def test_one_float_of_the_adapter_changes_every_exit(golden_export: ExportResult, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(golden_export.folder, copy)
    adapter = copy / "adapter.safetensors"
    offset = TensorFile(adapter).entries["head.mlp.fc2.bias"].offset
    with adapter.open("r+b") as file:
        file.seek(offset)
        file.write(np.float32(5).tobytes())
    before = answers_of_a_stock_runtime(golden_export.folder, tmp_path)
    after = answers_of_a_stock_runtime(copy, tmp_path)
    for key, logits in before.items():
        # The bias of class 0 was 0.
        np.testing.assert_allclose(after[key] - logits, np.tile([5, 0, 0, 0, 0], (len(logits), 1)), atol=1e-5)


@pytest.mark.parametrize("exit_index", EXITS)
def test_weights_lie_in_the_safetensors_files_and_nowhere_else(exit_index: int, golden_export: ExportResult) -> None:
    folder = golden_export.folder
    model = onnx.load(folder / f"exit_{exit_index:02d}.onnx", load_external_data=False)
    outside = {part.name: part for part in model.graph.initializer if part.external_data}
    inside = [part for part in model.graph.initializer if not part.external_data]
    assert max(part.ByteSize() for part in inside) < 1024
    files = {name: TensorFile(folder / name) for name in ("backbone.safetensors", "adapter.safetensors")}
    for name, part in outside.items():
        where = {entry.key: entry.value for entry in part.external_data}
        tensor, _, row = name.partition("[")
        array = files[where["location"]][tensor]
        if row:  # `[1:2]`, block 1's row of the parallel adapters
            array = array[slice(*map(int, row.rstrip("]").split(":")))]
        stored = (folder / where["location"]).read_bytes()
        start, length = int(where["offset"]), int(where["length"])
        assert stored[start : start + length] == array.tobytes()
        assert tuple(part.dims) == array.shape


def test_no_graph_holds_a_tensor_above_1_kb(golden_export: ExportResult) -> None:
    for path in golden_export.folder.glob("*.onnx"):
        inline = onnx.load(path, load_external_data=False).graph.initializer
        large = [part.name for part in inline if not part.external_data and part.ByteSize() > 1024]
        assert large == [], path.name


def test_a_stand_alone_graph_reads_the_blocks_up_to_its_exit(golden_export: ExportResult) -> None:
    for exit_index in EXITS:
        model = onnx.load(golden_export.folder / f"exit_{exit_index:02d}.onnx", load_external_data=False)
        read = {part.name.split(".")[1] for part in model.graph.initializer if part.name.startswith("blocks.")}
        assert read == {str(index) for index in range(exit_index + 1)}
        assert [value.name for value in model.graph.input] == ["samples"]
        assert [value.name for value in model.graph.output] == ["logits"]


def test_a_stand_alone_graph_tells_nothing_about_the_machine_it_was_made_on(golden_export: ExportResult) -> None:
    for exit_index in EXITS:
        model = onnx.load(golden_export.folder / f"exit_{exit_index:02d}.onnx", load_external_data=False)
        text = model.SerializeToString()
        assert not [trace for trace in (b"site-packages", b".py", b"torch", b"/tmp", b"/home") if trace in text]
        parts: list[Any] = [model, model.graph, *model.graph.node]
        assert not [part for part in parts if part.doc_string or part.metadata_props]
