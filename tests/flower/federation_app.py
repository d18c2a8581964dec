"""The server's side of the conformance test: one query and two training rounds with two nodes, in stock Flower."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()

_NODES = 2
_ROUNDS = 2
_DEADLINE_SECONDS = 120


@app.main()
def main(grid: Grid, context: Context) -> None:
    _wait(lambda: len(list(grid.get_node_ids())) == _NODES)
    nodes = sorted(grid.get_node_ids())
    properties = _ask(grid, nodes, "query.properties", RecordDict())
    # 2.4 MB: more than one chunk of either side; the zeros make equal chunks.
    arrays = {"row": np.arange(5, dtype=np.float32), "zeros": np.zeros((600, 1000), np.float32)}
    rounds = []
    for server_round in range(1, _ROUNDS + 1):
        config = ConfigRecord({"round": server_round, "learning_rate": 0.5, "draw": "own", "tags": ["a", "b"]})
        content = RecordDict({"arrays": ArrayRecord({name: Array(a) for name, a in arrays.items()}), "config": config})
        replies = _ask(grid, nodes, "train", content)
        rounds.append([_summary(reply) for reply in replies])
        received = [reply.content.array_records["arrays"] for reply in replies]
        arrays = {name: np.mean(np.stack([r[name].numpy() for r in received]), axis=0) for name in arrays}
    results = {
        "properties": [dict(reply.content.config_records["properties"]) for reply in properties],
        "rounds": rounds,
        "final": {name: [float(array.min()), float(array.max())] for name, array in arrays.items()},
    }
    path = Path(str(context.run_config["results"]))
    path.with_suffix(".new").write_text(json.dumps(results))
    path.with_suffix(".new").replace(path)


def _ask(grid: Grid, nodes: list[int], message_type: str, content: RecordDict) -> list[Message]:
    pending = set(grid.push_messages([Message(content, dst_node_id=node, message_type=message_type) for node in nodes]))
    replies: list[Message] = []

    def all_there() -> bool:
        arrived = list(grid.pull_messages(pending))
        pending.difference_update(reply.metadata.reply_to_message_id for reply in arrived)
        replies.extend(arrived)
        return not pending

    _wait(all_there)
    return sorted(replies, key=lambda reply: reply.metadata.src_node_id)


def _summary(reply: Message) -> dict[str, object]:
    if reply.has_error():
        return {"error": [reply.error.code, reply.error.reason]}
    content = reply.content
    return {"reply": dict(content.config_records["reply"]), "metrics": dict(content.metric_records["metrics"])}


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        pause.wait(0.1)
