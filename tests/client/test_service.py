"""The client's loop with a real node: it answers, survives refusals and ends when it is told to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgefl.fleet import fleet_pb2
from edgefl.fleet.content import Content
from edgefl.update.instruction import Properties
from tests.client.serving import BUNDLE_ID, sent_adapter, serving_client, train_content
from tests.waiting import wait_until


def test_a_client_tells_its_properties_trains_and_trains_again(tmp_path: Path) -> None:
    with serving_client(tmp_path, deepest_exit=1) as client:
        told = client.ask(Content(), "query.properties")
        first = client.ask(train_content())
        second = client.ask(train_content(reply="delta", round=5))

    assert isinstance(told, Content)
    assert isinstance(first, Content)
    assert isinstance(second, Content)
    properties = Properties.from_config(told.configs["properties"])
    assert (properties.bundle_id, properties.deepest_exit) == (BUNDLE_ID, 1)
    assert first.arrays.keys() == second.arrays.keys() == set(first.configs["reply"]["coverage"])  # type: ignore[arg-type]  # a list of texts
    name = "accumulator.client_token"
    # The seed is the same, so the second round is the first one told as a difference.
    assert np.array_equal(second.arrays[name], first.arrays[name] - sent_adapter()[name])
    assert second.configs["reply"]["round"] == 5
    assert client.session.rounds == 2


def test_an_instruction_of_a_stock_strategy_is_answered_with_the_whole_adapter(tmp_path: Path) -> None:
    with serving_client(tmp_path) as client:
        answer = client.ask(Content(arrays=sent_adapter(), configs={"config": {"server-round": 1}}))

    assert isinstance(answer, Content)
    assert answer.arrays.keys() == sent_adapter().keys()
    assert answer.metrics["metrics"]["num-examples"] == 10


def test_a_refusal_is_answered_and_the_next_message_too(tmp_path: Path) -> None:
    with serving_client(tmp_path) as client:
        ids = [client.fleet.send(train_content(epochs=epochs)) for epochs in (0, 1)]
        refused, followed = (client.answer_to(message_id) for message_id in ids)

    assert isinstance(refused, fleet_pb2.Error)
    assert "`$.epochs`" in refused.reason
    assert isinstance(followed, Content)


def test_a_client_that_is_stopped_while_it_trains_ends_soon_and_keeps_the_instruction(tmp_path: Path) -> None:
    with serving_client(tmp_path) as client:
        message_id = client.fleet.send(train_content(epochs=10**12, learning_rate=1e-6, deadline_seconds=1e6))
        wait_until(lambda: message_id in client.fleet.confirmed, 30, "the instruction is there")
    # The block has waited for the thread's end.

    assert client.fleet.reply_to(message_id) is None
    assert client.device.files() == {"instruction"}
    assert client.fleet.online == set(), "it said farewell"
