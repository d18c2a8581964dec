"""A bundle whose network leaves CLS tokens as they are, against torch in float64 (arXiv 2212.04084, Table 5)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgefl.runtime.gradients import Gradients
from edgefl.runtime.model import Model, load
from edgefl.runtime.output_shapes import resolve_shapes
from edgefl.runtime.sessions import open_session
from edgefl.selftest.replay import all_programs, replay
from edgefl_export.exporter import export_bundle
from edgefl_export.model.network import AccumulatorNetwork
from edgefl_export.parity import in_float64, trained_adapter
from tests.export.networks import fill_adapter, small_network

Arrays = Mapping[str, np.ndarray[Any, Any]]

pytestmark = pytest.mark.slow  # the export

# With the blocks 2 and 3 between two exits.
EXITS = (0, 1, 3)
KNOBS = ("lean", "balanced", "fast")
SAMPLES = np.random.default_rng(7).standard_normal((5, 1, 8, 8)).astype(np.float32)
LABELS, WEIGHTS = np.array([0, 2, 1, 1, 2]), np.array([0.1, 0.3, 0.0, 0.5, 0.4], np.float32)


def network() -> AccumulatorNetwork:
    torch.manual_seed(1)
    return small_network(replace=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "bundle"
    # Five samples are cut into pieces of at most two, and of at most four with `fast`.
    export_bundle(network(), EXITS, out, batch=4, seed=0, force=False, progress=lambda *_: None)
    return out


@pytest.fixture(scope="module", params=["as exported", "trained", "large"])
def adapter(request: pytest.FixtureRequest) -> Arrays:
    if request.param == "trained":
        return trained_adapter(network(), seed=1)
    chosen = fill_adapter(network()) if request.param == "large" else network()
    return {name: parameter.detach().numpy() for name, parameter in chosen.adapter().items()}


@pytest.fixture(params=KNOBS)
def model(request: pytest.FixtureRequest, folder: Path, adapter: Arrays) -> Model:
    opened = load(folder, memory=request.param)
    opened.use_adapter(dict(adapter))
    return opened


def logits_and_loss(reference: AccumulatorNetwork, exit_index: int) -> tuple[Tensor, Tensor]:
    logits = reference(torch.from_numpy(SAMPLES).double(), exit_index)
    losses = F.cross_entropy(logits, torch.from_numpy(LABELS), reduction="none")
    return logits, (losses * torch.from_numpy(WEIGHTS)).sum()


def close(value: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> bool:
    """Say whether a float32 result is within 1e-4 of float64's in norm, with 1e-7 where that is zero."""
    return bool(np.linalg.norm(value - reference) <= 1e-4 * np.linalg.norm(reference) + 1e-7)


@pytest.mark.parametrize("exit_index", EXITS)
def test_logits_loss_and_every_gradient_are_torchs_with_every_knob(
    exit_index: int, adapter: Arrays, model: Model
) -> None:
    reference = in_float64(network(), adapter)
    logits, loss = logits_and_loss(reference, exit_index)
    parameters = reference.adapter()
    found = torch.autograd.grad(loss, list(parameters.values()))

    (prediction,) = model.infer(SAMPLES, exit_index)
    found_loss, gradients = model.train_step(SAMPLES, LABELS, exit_index, WEIGHTS)

    assert close(prediction.logits, logits.detach().numpy())
    assert found_loss == pytest.approx(loss.item(), rel=1e-5)
    expected = dict(zip(parameters, (gradient.numpy() for gradient in found), strict=True))
    assert [name for name in expected if not close(gradients[name], expected[name])] == []


@pytest.mark.parametrize("exit_index", EXITS)
def test_coverage_is_what_autograd_reaches(exit_index: int, folder: Path) -> None:
    chosen = fill_adapter(network()).double()
    parameters = chosen.adapter()
    _, loss = logits_and_loss(chosen, exit_index)
    reached = torch.autograd.grad(loss, list(parameters.values()))
    covered = {name: np.zeros(parameter.shape, bool) for name, parameter in parameters.items()}
    for part in load(folder).bundle.program(f"train/{exit_index}").coverage:
        covered[part.name][part.index] = True
    for (name, mask), gradient in zip(covered.items(), reached, strict=True):
        # No gradient of these random weights is zero by accident.
        assert np.array_equal(mask, gradient.numpy() != 0), name


def test_anytime_answers_what_each_exit_does(folder: Path) -> None:
    model = load(folder)
    answered = list(model.infer(SAMPLES))
    assert [prediction.exit_index for prediction in answered] == list(EXITS)
    for prediction in answered:
        (alone,) = model.infer(SAMPLES, prediction.exit_index)
        np.testing.assert_allclose(prediction.logits, alone.logits, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("exit_index", EXITS)
def test_a_stand_alone_graph_answers_what_the_program_does(exit_index: int, folder: Path) -> None:
    options = ort.SessionOptions()
    options.use_per_session_threads = False  # edgefl has given this process one pool
    session = ort.InferenceSession(folder / f"exit_{exit_index:02d}.onnx", options)
    (prediction,) = load(folder).infer(SAMPLES, exit_index)
    np.testing.assert_allclose(
        session.run(["logits"], {"samples": SAMPLES})[0], prediction.logits, rtol=1e-5, atol=1e-6
    )


def test_every_program_passes_the_self_test(folder: Path) -> None:
    model = load(folder)
    found = replay(model, all_programs(model.bundle))
    found.check()


def test_no_program_calls_a_vjp_of_a_block_and_no_block_saves_anything(folder: Path) -> None:
    manifest = load(folder).bundle.manifest
    assert sorted(name for name in manifest.graphs if name.startswith("block")) == ["block", "block_exit"]
    assert manifest.graphs["block"].outputs == ["cls_out", "patches_out"]
    assert manifest.graphs["block_exit"].outputs == ["cls_out"]


@pytest.mark.parametrize("graph", ["append_history", "append_history_vjp"])
def test_what_a_graph_of_the_history_makes_is_known_before_it_runs(graph: str, folder: Path) -> None:
    session = open_session(folder / f"{graph}.onnx")
    sizes = {"batch": 3, "tokens": 2, "tokens + 1": 3}
    declared = [value.shape for value in session.get_inputs()]
    given = [tuple(sizes.get(length, length) for length in shape) for shape in declared]
    feeds = {value.name: np.zeros(shape, np.float32) for value, shape in zip(session.get_inputs(), given, strict=True)}
    made = [array.shape for array in session.run(None, feeds)]
    outputs = {value.name: value.shape for value in session.get_outputs()}
    assert list(resolve_shapes(declared, given, outputs).values()) == made


def test_two_more_blocks_cost_their_way_down_and_their_tokens_both_ways(folder: Path) -> None:
    costs = load(folder).bundle.manifest.costs
    assert costs["train/3/lean"] == costs["train/3/balanced"] == costs["train/3"]
    # Width, FFN and tokens of the backbone.
    d, ffn, n = 12, 24, 5
    block = n * (4 * d * d + 2 * d * ffn + 2 * n * d)
    # A token's key and value, and the answer's score and reading of it.
    token, read = 2 * d * d, 2 * d
    assert costs["infer/3"].macs - costs["infer/1"].macs == 2 * (block + token + read)
    # Back: both products that read it have two gradients; norm1's output has one, and qkv's weight a row.
    back = 2 * read + 2 * d * d + 3 * d * d
    assert costs["train/3"].macs - costs["train/1"].macs == 2 * (block + token + read + back)


def test_everything_but_the_accumulator_s_part_can_be_kept_from_epoch_to_epoch(folder: Path) -> None:
    opened = load(folder)
    opened.use_adapter(trained_adapter(network(), seed=1))
    loss, gradients = opened.train_step(SAMPLES, LABELS, 3, WEIGHTS)

    features = opened.features(SAMPLES, 3)
    found = Gradients(opened.adapter)
    found_loss = opened.accumulate(found, features, LABELS, 3, WEIGHTS)

    # CLS tokens alone, of the embedding and of every block: the rest runs no block.
    width = opened.bundle.manifest.model.width
    assert {name: array.shape for name, array in features.arrays.items()} == dict.fromkeys(
        ("cls", "cls.0", "cls.1", "cls.2", "cls.3"), (5, 1, width)
    )
    assert found_loss == pytest.approx(loss, rel=1e-6)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(found.arrays[name], gradient, atol=1e-6 * np.abs(gradient).max() + 1e-12)
