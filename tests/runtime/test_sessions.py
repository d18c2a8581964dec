"""How graphs are opened (edgefl/runtime/sessions.py)."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest

from edgefl.errors import BundleError
from edgefl.runtime.sessions import open_session
from tests.golden_bundle import GOLDEN


def test_all_sessions_share_one_pool_of_threads_and_one_arena_and_copy_no_weights() -> None:
    options = open_session(GOLDEN / "embed.onnx").get_session_options()

    assert not options.use_per_session_threads
    assert options.get_session_config_entry("session.use_env_allocators") == "1"
    assert options.get_session_config_entry("session.disable_prepacking") == "1"
    assert options.execution_order == ort.ExecutionOrder.PRIORITY_BASED


def test_a_file_that_is_no_graph_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"cannot read .*graph\.onnx"):
        open_session(tmp_path / "graph.onnx")
