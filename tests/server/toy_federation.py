"""Devices and a network for tests: real records and real messages, only the wire between them is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from threading import Event

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, MetricRecordValues, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from edgefl.core.tensor_slice import TensorSlice
from edgefl.update.instruction import Instruction, Properties, ReplyHeader
from edgefl_server.rounds.aggregate import FloatArray
from tests.toy_bundle import toy_coverage

# Flower's runtime tells the process who it is before it calls a ServerApp; without it no message can be made.
TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1

Respond = Callable[[Message], Message | None]


@dataclass
class ToyDevice:
    """A device that answers at once; what it "learned" is to move every value it reaches by `step`.

    Attributes:
        bundle_id: The bundle it holds.
        deepest_exit: What it says it can afford.
        step: What it adds to each element it covers.
        num_examples: What it says it trained on.
        seen: Every instruction it got.
    """

    bundle_id: str
    deepest_exit: int
    step: float = 1.0
    num_examples: int = 10
    seen: list[Instruction] = field(default_factory=list)

    def __call__(self, message: Message) -> Message | None:
        """Answer a question or an instruction."""
        if message.metadata.message_type == "query.properties":
            return Message(RecordDict({"properties": ConfigRecord(self.properties().to_config())}), reply_to=message)
        instruction = Instruction.from_config(message.content.config_records["config"])
        self.seen.append(instruction)
        return Message(self.trained(instruction, message.content.array_records["arrays"]), reply_to=message)

    def properties(self) -> Properties:
        """Return what it tells about itself."""
        return Properties(
            edgefl=1,
            bundle_id=self.bundle_id,
            deepest_exit=self.deepest_exit,
            num_examples=self.num_examples,
            memory_bytes=2**30,
            cores=4,
            machine="aarch64",
            client="toy/1",
        )

    def trained(self, instruction: Instruction, adapter: ArrayRecord) -> RecordDict:
        """Return its reply to an instruction."""
        keys = toy_coverage(instruction.exit_index)
        parts = {key: TensorSlice.parse(key) for key in keys}
        values = {key: adapter[part.name].numpy()[part.index] + np.float32(self.step) for key, part in parts.items()}
        return reply_records(instruction, values, num_examples=self.num_examples)


def reply_records(instruction: Instruction, values: dict[str, FloatArray], *, num_examples: int = 10) -> RecordDict:
    """Return a reply as docs/protocol.md has it."""
    header = ReplyHeader(
        edgefl=1,
        bundle_id=instruction.bundle_id,
        adapter_version=instruction.adapter_version,
        round=instruction.round,
        exit_index=instruction.exit_index,
        coverage=list(values),
        reply=instruction.reply,
    )
    metrics: dict[str, MetricRecordValues] = {
        "num-examples": num_examples,
        "loss": 0.5,
        "steps": 3,
        "train_seconds": 1.5,
        "peak_rss_bytes": 1000,
    }
    return RecordDict(
        {
            "arrays": ArrayRecord({key: Array(np.ascontiguousarray(value)) for key, value in values.items()}),
            "reply": ConfigRecord(header.to_config()),
            "metrics": MetricRecord(metrics),
        }
    )


def on_train(device: ToyDevice, respond: Respond) -> Respond:
    """Return a device that tells its properties and then trains in another way."""

    def answer(message: Message) -> Message | None:
        return device(message) if message.metadata.message_type == "query.properties" else respond(message)

    return answer


def failing(message: Message) -> Message:
    """Answer with an error, as a client does whose training raised."""
    return Message(Error(code=2, reason="out of memory"), reply_to=message)


def silent(_message: Message) -> None:
    """Never answer."""


class ToyGrid(Grid):
    """Flower's connection to the nodes, without a network.

    Attributes:
        nodes: The nodes that are online, by id.
        session: Of all nodes; a new one makes each of them one that just restarted.
        released: Lets the pulls of stalled nodes return.
    """

    def __init__(self, nodes: dict[int, Respond]) -> None:
        self.nodes = nodes
        self.session = "first"
        self.released = Event()
        self._messages: dict[str, Message] = {}

    def stalled(self, _message: Message) -> None:
        """Answer as a node whose upload has stopped half way: the pull itself does not return."""
        self.released.wait()

    def set_run(self, run: Run) -> None:
        """Not used by edgefl."""
        raise NotImplementedError

    @property
    def run(self) -> Run:
        """Not used by edgefl."""
        raise NotImplementedError

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Not used by edgefl."""
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        """Return who is online."""
        return list(self.nodes)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return who is online, and since when."""
        return [NodeInfo(node_id=node_id, last_activated_at=self.session) for node_id in self.nodes]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages."""
        ids = []
        for message in messages:
            ids.append(f"message {len(self._messages)}")
            self._messages[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there; this is when a node works."""
        messages = [self._messages[message_id] for message_id in message_ids]
        replies = [self.nodes[message.metadata.dst_node_id](message) for message in messages]
        return [reply for reply in replies if reply is not None]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Return the replies that are there at once."""
        del timeout
        return self.pull_messages(self.push_messages(messages))
