"""ONNX Runtime sessions that share one thread pool and one arena."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import onnxruntime as ort

from edgefl.errors import BundleError
from edgefl.runtime.threads import allowed_threads

__all__ = ["open_session", "share_resources"]

_DOUBLING = 0
_FIRST_REGION_BYTES = 1 << 25
_NOT_OPTIMIZED = "optimization.disable_specified_optimizers"


def open_session(path: Path, packed: Mapping[str, ort.OrtValue] | None = None) -> ort.InferenceSession:
    """Open a graph.

    Args:
        path: The graph's file; a graph with external data finds them beside it.
        packed: Values for its constants, by name, of which ONNX Runtime may keep copies in an order that suits its
            matrix products; None for a graph whose weights are inputs, or stay in their file.

    Raises:
        BundleError: If ONNX Runtime cannot read it.
    """
    share_resources()
    options = ort.SessionOptions()
    # A pool for each session has threads that spin after a call and take the cores from the next session.
    options.use_per_session_threads = False
    # One arena for all: what one graph's call frees is what the next one's takes, without the system in between.
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.enable_mem_pattern = False
    # As the graph is written, which keeps few tensors alive; by default onnxruntime begins with what the outputs need.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if packed is None:
        # Prepacking copies constant weights into memory of its own, although the file is mapped.
        options.add_session_config_entry("session.disable_prepacking", "1")
        # GELU with a bias takes another tensor of its size to work in.
        options.add_session_config_entry(_NOT_OPTIMIZED, "BiasGeluFusion")
    else:
        options.add_external_initializers(list(packed), list(packed.values()))
        # It would make transposed copies of weights first; packing reads them in either order.
        options.add_session_config_entry(_NOT_OPTIMIZED, "ConstantFolding")
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own unrelated classes, which it does not export
        raise BundleError(f"onnxruntime {ort.__version__} cannot read {path}: {error}") from error


@cache
def share_resources() -> None:
    """Give all sessions of this process one pool of threads and one arena; the first call decides.

    Raises:
        BadInputError: If EDGEFL_THREADS is no number of threads.
    """
    ort.set_global_thread_pool_sizes(allowed_threads(), 1)
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    # No limit.  One large region, of which only what is used takes memory: in regions of just what is asked for, pieces
    # that are free side by side cannot become a larger one.
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg(0, _DOUBLING, _FIRST_REGION_BYTES, -1))
