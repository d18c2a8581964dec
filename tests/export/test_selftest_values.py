"""The golden values an export writes: torch in float64, the same bytes everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import torch

from edgefl.core.tensors import TensorFile, encode_tensors
from edgefl.runtime.sessions import open_session
from edgefl_export import selftest
from edgefl_export.exporter import ExportResult
from edgefl_export.graphs.preprocess import Preprocessing, preprocess_graph
from edgefl_export.selftest import golden_values, reference_samples
from tests.export.networks import small_network
from tests.golden.make_bundle import FOLDER

Array = np.ndarray[Any, Any]


def values(exits: tuple[int, ...] = (0, 3), **settings: Any) -> dict[str, Array]:
    network = small_network(**settings)
    shapes = {name: tuple(parameter.shape) for name, parameter in network.adapter().items()}
    return golden_values(network, exits, shapes)


@pytest.mark.parametrize(
    ("exits", "tested"),
    [(range(12), [0, 5, 11]), ((2, 5, 8, 11), [2, 5, 11]), ((0, 4, 9), [0, 4, 9]), ((3, 7), [3, 7]), ((6,), [6])],
)
def test_the_shallowest_the_middle_and_the_deepest_exit_are_tested_each_once(exits: Any, tested: list[int]) -> None:
    assert selftest.tested_exits(exits) == tested


@pytest.mark.parametrize("resize_to", [32, 36])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_reference_makes_of_images_what_the_preprocessing_graph_makes(
    channels: Literal[1, 3], interpolation: Literal["bilinear", "bicubic"], resize_to: int, tmp_path: Path
) -> None:
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if channels == 3 else ((0.3,), (0.35,))
    settings = Preprocessing(
        image_size=32, resize_to=resize_to, channels=channels, interpolation=interpolation, mean=mean, std=std
    )
    onnx.save(preprocess_graph(settings), tmp_path / "preprocess.onnx")
    images = selftest._images(resize_to)

    (samples,) = open_session(tmp_path / "preprocess.onnx").run(None, {"images": images})
    reference = reference_samples(images, settings).numpy()

    assert images.shape[1] > resize_to
    assert images.shape[2] > images.shape[1]
    assert samples.shape == reference.shape == (2, channels, 32, 32)
    np.testing.assert_allclose(samples, reference, atol=2e-5)


def test_the_file_kept_for_the_device_tests_is_what_an_export_writes_today(golden_export: ExportResult) -> None:
    name = "selftest.safetensors"
    assert (golden_export.folder / name).read_bytes() == (FOLDER / name).read_bytes()


def test_numbers_that_differ_by_a_processor_s_rounding_are_stored_alike() -> None:
    numbers = np.random.default_rng(0).standard_normal(1000) * 10.0 ** np.arange(-5, 5).repeat(100)

    stored = selftest._rounded(numbers)

    assert stored.dtype == np.float32
    assert np.array_equal(stored, selftest._rounded(numbers * (1 + 1e-14)))
    np.testing.assert_allclose(stored, numbers, rtol=2.0**-20)
    # Twenty bits and no more: times 2**20 over their power of two, all are whole numbers.
    fractions, _ = np.frexp(stored)
    assert np.array_equal(fractions * 2**20, np.round(fractions * 2**20))


def test_one_thread_and_two_write_the_same_bytes() -> None:
    before = torch.get_num_threads()
    try:
        written = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            written.append(b"".join(encode_tensors(values())))
    finally:
        torch.set_num_threads(before)
    assert written[0] == written[1]


def test_the_exported_adapter_does_not_matter() -> None:
    # The released initialisation draws the client token and the positions with another deviation.
    assert encode_tensors(values()) == encode_tensors(values(init="released"))


def test_numbers_lie_at_multiples_of_their_size_in_the_file(golden_export: ExportResult) -> None:
    entries = TensorFile(golden_export.folder / "selftest.safetensors").entries
    assert list(entries)[-1] == "images"
    assert [name for name, entry in entries.items() if entry.offset % entry.dtype.itemsize] == []


@pytest.mark.parametrize("settings", [{}, {"parallel_adapter_rank": 2}, {"head": "linear"}, {"depth": 2}])
def test_with_the_formula_s_adapter_nothing_vanishes_and_nothing_saturates(settings: dict[str, Any]) -> None:
    found = values(**settings)
    for exit_index in ("00", "03"):
        norms, logits = found[f"gradient_norms_{exit_index}"], found[f"logits_{exit_index}"]
        assert norms.min() > 1e-4 * norms.max() > 0
        # Guessing among three classes costs log 3 = 1.1.
        assert 0.2 < found[f"loss_{exit_index}"] < 5
        assert 0.05 < np.abs(logits).max() < 10


def test_a_gradient_that_is_zero_but_for_rounding_is_stored_as_zero() -> None:
    parameters = {"seen": torch.tensor([3.0, 4.0]), "hardly": torch.tensor([1e-12]), "unseen": torch.ones(2)}
    for parameter in parameters.values():
        parameter.requires_grad_()

    class Reference:
        def adapter(self) -> dict[str, torch.Tensor]:
            """Return what is trained."""
            return parameters

    loss = (parameters["seen"] ** 2).sum() / 2 + (parameters["hardly"] ** 2).sum() / 2
    norms = selftest._norms(loss, Reference(), dict.fromkeys(parameters, ()))  # type: ignore[arg-type]
    assert norms.tolist() == [5.0, 0.0, 0.0]
