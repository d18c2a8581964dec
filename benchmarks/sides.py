"""The sides of a comparison: what each does in one step, written as a careful user of it would.

Every training side does the same work: the loss and gradient of one batch, then SGD with momentum 0.9.  The
optimizer of `edgefl` and of `one-graph` is edgefl's own, in numpy, outside the graph; that of `torch` is torch's.
Imports stand inside the functions, because a side's memory must hold nothing of another's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from benchmarks.setting import Setting, build_network

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["IMPORTS", "Kind", "Task", "Work", "prepare"]

LEARNING_RATE, MOMENTUM = 1e-3, 0.9

Kind = Literal["edgefl", "torch", "one-graph", "stand-alone", "matmul"]
Arrays = dict[str, np.ndarray[Any, Any]]

_RUNTIME = ("edgefl.bundle", "edgefl.runtime.model", "edgefl.runtime.optimizer")
IMPORTS: Mapping[Kind, tuple[str, ...]] = {
    "edgefl": _RUNTIME,
    "torch": ("torch", "edgefl_export.model.network"),
    "one-graph": ("onnxruntime", "edgefl.core.tensors", "edgefl.runtime.optimizer"),
    "stand-alone": ("onnxruntime",),
    "matmul": ("onnxruntime",),
}
"""What each side imports before it does anything: its baseline."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a side has to do.

    Attributes:
        kind: The side.
        mode: A training step or an inference.
        setting: Model and batch.
        exit_index: The exit.
        threads: Threads it may use.
        path: The bundle's folder, or the graph's file.
        adapter: The adapter's file, for a graph that takes it as input.
        program: The bundle's program.
        memory: The memory knob.
        shapes: Of the products (rows, inner, columns) that `matmul` multiplies.
    """

    kind: Kind
    mode: Literal["train", "infer"]
    setting: Setting
    exit_index: int
    threads: int
    path: str = ""
    adapter: str = ""
    program: str = ""
    memory: str | None = None
    shapes: list[tuple[int, int, int]] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A side that is ready.

    Attributes:
        parts: What is timed, by name.
        answer: Computes what all sides must agree on, by name, and changes nothing.
    """

    parts: Mapping[str, Callable[[], object]]
    answer: Callable[[], Arrays]


def prepare(task: Task) -> Work:
    """Load what a side needs."""
    makers: dict[tuple[Kind, str], Callable[[Task], Work]] = {
        ("edgefl", "train"): _train_edgefl,
        ("edgefl", "infer"): _infer_edgefl,
        ("torch", "train"): _train_torch,
        ("torch", "infer"): _infer_torch,
        ("one-graph", "train"): _train_one_graph,
        ("one-graph", "infer"): _infer_graph,
        ("stand-alone", "infer"): _infer_graph,
        ("matmul", "train"): _multiply,
    }
    return makers[task.kind, task.mode](task)


def _train_edgefl(task: Task) -> Work:
    from edgefl.bundle import Bundle
    from edgefl.runtime.gradients import Gradients
    from edgefl.runtime.model import Model
    from edgefl.runtime.optimizer import Sgd

    # Hashing would count the pages of the whole weight file as this exit's.
    bundle = Bundle(Path(task.path), verify=False)
    model = Model(bundle, bundle.adapter(), memory=task.memory)
    model.use_adapter({name: np.array(array) for name, array in model.adapter.items()})
    samples, labels = task.setting.samples(bundle.manifest.model.channels), task.setting.labels()
    gradients, optimizer = Gradients(model.adapter, MOMENTUM), Sgd(learning_rate=LEARNING_RATE)

    def step() -> None:
        gradients.clear()
        model.accumulate(gradients, samples, labels, task.exit_index)
        optimizer.step(model.adapter, gradients.arrays, gradients.coverage)

    def answer() -> Arrays:
        loss, arrays = model.train_step(samples, labels, task.exit_index)
        return {"loss": np.array(loss, np.float32), **arrays}

    return Work(parts={"step": step}, answer=answer)


def _infer_edgefl(task: Task) -> Work:
    from edgefl.bundle import Bundle
    from edgefl.runtime.model import Model

    bundle = Bundle(Path(task.path), verify=False)
    model = Model(bundle, bundle.adapter(), memory=task.memory)
    samples = task.setting.samples(bundle.manifest.model.channels)
    exit_index = None if task.program == "anytime" else task.exit_index

    def answer() -> Arrays:
        *_, deepest = model.infer(samples, exit_index)
        return {"logits": deepest.logits}

    return Work(parts={"step": answer}, answer=answer)


def _train_torch(task: Task) -> Work:
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(task.threads)
    network = build_network(task.setting, task.exit_index)
    samples = torch.from_numpy(task.setting.samples(network.backbone.channels))
    labels = torch.from_numpy(task.setting.labels())
    adapter = network.adapter()
    optimizer = torch.optim.SGD(adapter.values(), lr=LEARNING_RATE, momentum=MOMENTUM)

    def loss() -> torch.Tensor:
        return F.cross_entropy(network(samples, task.exit_index), labels)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def answer() -> Arrays:
        value = loss()
        gradients = torch.autograd.grad(value, list(adapter.values()))
        arrays = {name: gradient.numpy() for name, gradient in zip(adapter, gradients, strict=True)}
        return {"loss": value.detach().numpy(), **arrays}

    return Work(parts={"step": step}, answer=answer)


def _infer_torch(task: Task) -> Work:
    import torch

    torch.set_num_threads(task.threads)
    network = build_network(task.setting, task.exit_index)
    samples = torch.from_numpy(task.setting.samples(network.backbone.channels))

    @torch.inference_mode()
    def answer() -> Arrays:
        return {"logits": network(samples, task.exit_index).numpy()}

    return Work(parts={"step": answer}, answer=answer)


def _train_one_graph(task: Task) -> Work:
    import onnxruntime as ort

    from edgefl.core.tensor_slice import TensorSlice
    from edgefl.core.tensors import TensorFile
    from edgefl.runtime.optimizer import Sgd

    session = _own_session(Path(task.path), task.threads)
    adapter = {name: np.array(array) for name, array in TensorFile(Path(task.adapter)).arrays().items()}
    coverage = [TensorSlice.parse(name) for name in adapter]
    samples, labels = task.setting.samples(_channels(session)), task.setting.labels()
    # They share the arrays' memory, so that the next run reads what the optimizer wrote.
    given = {"samples": samples, "labels": labels, **adapter}
    feeds = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in given.items()}
    optimizer = Sgd(learning_rate=LEARNING_RATE, momentum=MOMENTUM)
    outputs = ["loss", *(f"gradient.{name}" for name in adapter)]

    def answer() -> Arrays:
        made = session.run_with_ort_values(outputs, feeds)
        return dict(zip(("loss", *adapter), (value.numpy() for value in made), strict=True))

    def step() -> None:
        optimizer.step(adapter, answer(), coverage)

    return Work(parts={"step": step}, answer=answer)


def _infer_graph(task: Task) -> Work:
    """Open an exit's graph, edgefl's stand-alone one or a plain export, as any user of ONNX Runtime would."""
    session = _own_session(Path(task.path), task.threads)
    samples = task.setting.samples(_channels(session))

    def answer() -> Arrays:
        (logits,) = session.run(["logits"], {"samples": samples})
        return {"logits": logits}

    return Work(parts={"step": answer}, answer=answer)


def _multiply(task: Task) -> Work:
    """Make one product of each shape, once with a matrix given and once with a constant, which is prepacked."""
    import onnxruntime as ort

    from benchmarks.products import product_graph, product_name

    # One pool for all these sessions: the threads of one would spin while the next one works.
    ort.set_global_thread_pool_sizes(task.threads, 1)
    options = ort.SessionOptions()
    options.use_per_session_threads = False
    random = np.random.default_rng(0)
    parts: dict[str, Callable[[], object]] = {}
    for shape in task.shapes:
        rows, inner, columns = shape
        left, right = random.random((rows, inner), np.float32), random.random((inner, columns), np.float32)
        values = {"a": ort.OrtValue.ortvalue_from_numpy(left), "b": ort.OrtValue.ortvalue_from_numpy(right)}
        for constant in (False, True):
            graph = product_graph(left.shape, right, constant=constant)
            session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            feeds = {node.name: values[node.name] for node in session.get_inputs()}
            parts[product_name(shape, constant=constant)] = partial(session.run_with_ort_values, ["c"], feeds)
    return Work(parts=parts, answer=dict)


def _own_session(graph: Path, threads: int) -> ort.InferenceSession:
    """Open a graph with ONNX Runtime's defaults: an arena, prepacked weights, and a pool that is its own."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _channels(session: ort.InferenceSession) -> int:
    (channels,) = (node.shape[1] for node in session.get_inputs() if node.name == "samples")
    return int(channels)
