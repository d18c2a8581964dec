"""Another process that lowers graphs: torch takes seconds for each, on one processor.

Started as `python -m edgefl_export.assistant`.  It reads a pickled network without values, then names of graphs, and
answers each with the graph; messages are a length of 8 bytes and so many bytes.  It ends when its input does, however
the first process ended.
"""

from __future__ import annotations

import copy
import os
import pickle  # noqa: TID251  # between two processes of one export; nothing of it is stored or comes from elsewhere
import subprocess
import sys
from contextlib import suppress
from typing import IO, Self

import onnx
import torch
from torch import nn

from edgefl_export.graphs.catalog import Catalog
from edgefl_export.lowered import lowered_whole
from edgefl_export.model.network import AccumulatorNetwork

__all__ = ["Assistant"]


class Assistant:
    """A process that lowers graphs of a network; leaving the context ends it.

    Args:
        network: The network.

    Raises:
        OSError: If the system has no process or pipe to give.
    """

    def __init__(self, network: AccumulatorNetwork) -> None:
        # A session of its own: a ctrl-C in the terminal is for the first process, which ends this one.
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "edgefl_export.assistant"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._send(pickle.dumps(_architecture(network)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()
        with suppress(OSError):  # what it did not read any more
            self._process.communicate()

    def end(self) -> None:
        """End the process, whatever it does; who waits for a graph gets an error."""
        self._process.kill()

    def lower(self, name: str) -> onnx.ModelProto:
        """Return a graph that is not part of another.

        Raises:
            OSError: If the process has ended, for want of memory for instance.
        """
        self._send(name.encode())
        graph = _receive(self._process.stdout)
        if graph is None:
            raise BrokenPipeError("the assistant has ended")
        return onnx.load_from_string(graph)

    def _send(self, message: bytes) -> None:
        _send(self._process.stdin, message)


def _architecture(network: AccumulatorNetwork) -> AccumulatorNetwork:
    """Return a network without values, on which no graph depends."""
    tensors = (*network.parameters(), *network.buffers())
    bare = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}
    parameters = {id(p): nn.Parameter(bare[id(p)], requires_grad=p.requires_grad) for p in network.parameters()}
    return copy.deepcopy(network, bare | parameters)


def _send(pipe: IO[bytes] | None, message: bytes) -> None:
    if pipe is None:
        raise TypeError("the process was started without this pipe")
    pipe.write(len(message).to_bytes(8, "little"))
    pipe.write(message)
    pipe.flush()


def _receive(pipe: IO[bytes] | None) -> bytes | None:
    """Return a message, None at the end."""
    if pipe is None:
        raise TypeError("the process was started without this pipe")
    length = int.from_bytes(pipe.read(8), "little")
    message = pipe.read(length)
    return message if length and len(message) == length else None


def _assist(requests: IO[bytes], answers: IO[bytes]) -> None:
    torch.set_num_threads(1)
    architecture = _receive(requests)
    if architecture is None:
        return
    network: AccumulatorNetwork = pickle.loads(architecture)  # noqa: S301  # from the process that started this one
    catalog = Catalog(network.to_empty(device="cpu"))
    while (name := _receive(requests)) is not None:
        graph = lowered_whole(catalog, name.decode())
        _send(answers, graph.SerializeToString(deterministic=True))


def _main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # What a library prints must not end up among the graphs.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _assist(sys.stdin.buffer, answers)


if __name__ == "__main__":
    _main()
