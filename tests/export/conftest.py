"""What takes long is made once: the lowered graphs of two networks and a fresh export of the golden one."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import pytest

from edgefl.bundle import Bundle
from edgefl.runtime.model import Model
from edgefl_export.exporter import ExportResult
from edgefl_export.lowering import lower_graphs
from tests.export.networks import embedded_network
from tests.golden.make_bundle import export_golden


@pytest.fixture(scope="session")
def golden_export(tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """The golden network exported by the code under test."""
    return export_golden(tmp_path_factory.mktemp("golden") / "bundle")


@pytest.fixture(scope="session")
def golden_graphs(golden_export: ExportResult) -> Mapping[str, onnx.ModelProto]:
    """Every graph of that export, by name."""
    return {
        name: onnx.load(golden_export.folder / f"{name}.onnx") for name in Bundle(golden_export.folder).manifest.graphs
    }


@pytest.fixture(scope="session")
def golden_model(golden_export: ExportResult) -> Model:
    """That export in use; whoever changes its adapter puts the old one back."""
    bundle = Bundle(golden_export.folder)
    return Model(bundle, bundle.adapter())


@pytest.fixture(scope="session")
def embedded_graphs() -> Mapping[str, onnx.ModelProto]:
    """The graphs that inference with the embedded backbone calls, by name."""
    names = ("embed", "open_history", "block", "block_exit", "modulate", "answer")
    return lower_graphs(embedded_network(), names, lambda *_: None)
