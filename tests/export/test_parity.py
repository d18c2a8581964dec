"""The exported bundle against torch in float64, logits and every tensor's gradient, at every exit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edgefl.errors import ParityError
from edgefl.runtime.model import Model, load
from edgefl_export.exporter import ExportResult
from edgefl_export.model.network import AccumulatorNetwork
from edgefl_export.parity import TOLERANCE, Parity, check_parity, measure_parity, trained_adapter
from tests.golden.make_bundle import FOLDER, golden_network

Arrays = Mapping[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module", params=["as exported", "trained", "large"])
def adapter(request: pytest.FixtureRequest) -> Arrays:
    network = golden_network()
    if request.param == "trained":
        return trained_adapter(network, seed=1)
    scale = 0.3 if request.param == "large" else 0.0
    random = np.random.default_rng(4)
    return {
        name: parameter.detach().numpy() + scale * random.standard_normal(parameter.shape).astype(np.float32)
        for name, parameter in network.adapter().items()
    }


def in_float64(adapter: Arrays) -> AccumulatorNetwork:
    network = golden_network().double()
    with torch.no_grad():
        for name, parameter in network.adapter().items():
            parameter.copy_(torch.from_numpy(np.array(adapter[name])))
    return network


def close(value: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> bool:
    """Say whether a float32 result is within 1e-4 of float64's in norm, with 1e-7 where that is zero."""
    return bool(np.linalg.norm(value - reference) <= 1e-4 * np.linalg.norm(reference) + 1e-7)


@pytest.mark.parametrize("exit_index", [0, 1, 2])
def test_logits_loss_and_every_gradient_are_torchs(exit_index: int, adapter: Arrays, golden_model: Model) -> None:
    # Five samples through a program of batch 4: the second piece is padded with three samples of weight 0.
    random = np.random.default_rng(7)
    samples = random.standard_normal((5, 1, 16, 16)).astype(np.float32)
    labels, weights = np.array([0, 4, 2, 2, 1]), np.array([0.1, 0.3, 0.0, 0.5, 0.4], np.float32)
    network = in_float64(adapter)
    logits = network(torch.from_numpy(samples).double(), exit_index)
    loss = (F.cross_entropy(logits, torch.from_numpy(labels), reduction="none") * torch.from_numpy(weights)).sum()
    found = torch.autograd.grad(loss, list(network.adapter().values()), allow_unused=True)

    own = dict(golden_model.adapter)
    golden_model.use_adapter(dict(adapter))
    try:
        (prediction,) = golden_model.infer(samples, exit_index)
        found_loss, gradients = golden_model.train_step(samples, labels, exit_index, weights)
    finally:
        golden_model.use_adapter(own)
    assert close(prediction.logits, logits.detach().numpy())
    assert found_loss == pytest.approx(loss.item(), rel=1e-5)
    expected = {
        name: np.zeros(parameter.shape) if gradient is None else gradient.numpy()
        for (name, parameter), gradient in zip(network.adapter().items(), found, strict=True)
    }
    assert [name for name, gradient in expected.items() if not close(gradients[name], gradient)] == []


def test_anytime_answers_what_each_exit_does(golden_model: Model) -> None:
    samples = np.random.default_rng(8).standard_normal((2, 1, 16, 16)).astype(np.float32)
    for prediction in golden_model.infer(samples):
        (alone,) = golden_model.infer(samples, prediction.exit_index)
        np.testing.assert_allclose(prediction.logits, alone.logits, rtol=1e-6, atol=1e-6)


def test_the_bundle_kept_for_the_device_tests_is_still_the_network(adapter: Arrays) -> None:
    # With an older or newer torch its graphs may be other bytes than a fresh export's; what they compute may not.
    check_parity(measure_parity(golden_network(), load(FOLDER), adapter, (0, 1, 2), seed=3))


def test_a_trained_adapter_has_no_tensor_left_at_zero() -> None:
    network = golden_network()
    before = {name: parameter.detach().clone() for name, parameter in network.adapter().items()}
    trained = trained_adapter(network, seed=0)
    assert [name for name, array in trained.items() if not array.any()] == []
    assert all(torch.equal(parameter, before[name]) for name, parameter in network.adapter().items())


def test_measuring_parity_puts_the_bundles_own_adapter_back(golden_model: Model) -> None:
    own = dict(golden_model.adapter)
    list(measure_parity(golden_network(), golden_model, trained_adapter(golden_network(), seed=1), [0], seed=0))
    assert all(np.array_equal(golden_model.adapter[name], array) for name, array in own.items())


def test_parity_sees_one_wrong_weight(golden_model: Model) -> None:
    network = golden_network()
    adapter = {name: parameter.detach().numpy() for name, parameter in network.adapter().items()}
    network.backbone.blocks[0].mlp.fc1.weight.data[3, 3] += 0.1
    (found,) = measure_parity(network, golden_model, adapter, [0], seed=0)
    assert found.logits > TOLERANCE


@pytest.mark.parametrize(
    ("logits", "gradient", "message"),
    [
        (2e-4, 0.0, "exit 2: logits are off by 2.0e-04 of torch's, at most 1e-04"),
        (0.0, 2e-4, "exit 2: gradients of head.norm.bias are off by 2.0e-04"),
        (math.inf, 0.0, "exit 2: logits are off by inf"),
    ],
)
def test_a_difference_above_the_tolerance_is_refused_by_exit_and_tensor(
    logits: float, gradient: float, message: str
) -> None:
    fine = Parity(exit_index=1, logits=9e-5, gradient=9e-5, tensor="head.norm.bias")
    bad = Parity(exit_index=2, logits=logits, gradient=gradient, tensor="head.norm.bias")
    check_parity([fine])
    with pytest.raises(ParityError, match=message):
        check_parity([fine, bad])


def test_a_gradient_that_is_no_number_is_infinitely_far_away(golden_model: Model) -> None:
    network = golden_network()
    adapter = {name: parameter.detach().numpy().copy() for name, parameter in network.adapter().items()}
    adapter["head.mlp.fc1.bias"][0] = np.nan
    (found,) = measure_parity(network, golden_model, adapter, [0], seed=0)
    assert found.logits == math.inf


def test_an_export_reports_the_worse_of_exported_and_trained_weights(golden_export: ExportResult) -> None:
    assert [parity.exit_index for parity in golden_export.parity] == [0, 1, 2]
    for parity in golden_export.parity:
        assert 0 < parity.logits < TOLERANCE
        assert 0 < parity.gradient < TOLERANCE


def test_an_exported_folder_weighs_what_the_report_says(golden_export: ExportResult) -> None:
    sizes = [path.stat().st_size for path in Path(golden_export.folder).iterdir()]
    assert golden_export.bundle_bytes == sum(sizes)
    network = golden_network()
    values = sum(tensor.numel() for tensor in network.backbone.frozen().values())
    values += sum(parameter.numel() for parameter in network.adapter().values())
    assert golden_export.weight_bytes == 4 * values
