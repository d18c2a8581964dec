"""Instructions a device must not follow: each is answered with the reason, nothing changes, and the device goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgefl.fleet import fleet_pb2
from edgefl.fleet.content import Content
from edgefl.runtime.weights import FloatArray
from tests.client.serving import Client, sent_adapter, serving_client, train_content

Adapter = dict[str, FloatArray]
TOKEN = "accumulator.client_token"  # noqa: S105  # a tensor


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Return one client for all of them: it has to survive each."""
    with serving_client(tmp_path_factory.mktemp("device"), deepest_exit=1) as running:
        yield running


def assert_refused(client: Client, content: Content, reason: str, message_type: str = "train") -> None:
    """Send a message; check that it is refused, that nothing changed and that an honest one is still followed."""
    adapter = client.session.model.adapter
    before = {name: np.array(array) for name, array in adapter.items()}

    answer = client.ask(content, message_type)

    assert isinstance(answer, fleet_pb2.Error), answer
    assert reason in answer.reason
    assert client.session.model.adapter is adapter
    assert all(np.array_equal(adapter[name], array) for name, array in before.items())
    honest = client.ask(train_content(epochs=1))
    assert isinstance(honest, Content)
    assert honest.configs["reply"]["round"] == 4


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bundle_id": "0" * 64}, "the instruction is for bundle 000000000000, this device has"),
        ({"bundle_id": ""}, "the instruction is for bundle , this device has"),
        ({"exit_index": 3}, "exit 3 cannot be trained here: the bundle has [0, 1, 2], this device affords exit 1"),
        ({"exit_index": 2**62}, f"exit {2**62} cannot be trained here"),
        ({"exit_index": -1}, "`$.exit_index`"),
        ({"epochs": 0}, "`$.epochs`"),
        ({"batch_size": 0}, "`$.batch_size`"),
        ({"batch_size": -(2**63)}, "`$.batch_size`"),
        ({"learning_rate": -0.1}, "`$.learning_rate`"),
        ({"learning_rate": math.nan}, "`$.learning_rate`"),
        ({"learning_rate": math.inf}, "`$.learning_rate`"),
        ({"learning_rate": "0.1"}, "`$.learning_rate`"),
        ({"momentum": 1.0}, "`$.momentum`"),
        ({"weight_decay": math.inf}, "`$.weight_decay`"),
        ({"clip": math.nan}, "`$.clip`"),
        ({"clip": -1.0}, "`$.clip`"),
        ({"deadline_seconds": 0.0}, "`$.deadline_seconds`"),
        ({"deadline_seconds": math.nan}, "`$.deadline_seconds`"),
        ({"optimizer": "__import__('os').abort()"}, "`$.optimizer`"),
        ({"draw": ["own"]}, "`$.draw`"),
        ({"reply": "code"}, "`$.reply`"),
        ({"seed": -1}, "`$.seed`"),
        ({"edgefl": 2}, "`$.edgefl`"),
        ({"edgefl": 0}, "`$.edgefl`"),
        ({"edgefl": "1"}, "`$.edgefl`"),
    ],
)
def test_an_instruction_with_a_wrong_value_is_refused(client: Client, changes: dict[str, int], reason: str) -> None:
    assert_refused(client, train_content(**changes), reason)


def test_an_instruction_of_ours_with_a_key_missing_is_not_taken_for_a_stock_one(client: Client) -> None:
    content = train_content()
    config = {key: value for key, value in content.configs["config"].items() if key != "batch_size"}

    assert_refused(client, Content(arrays=content.arrays, configs={"config": config}), "`batch_size`")


def replaced(name: str, array: FloatArray) -> Callable[[], Adapter]:
    return lambda: sent_adapter() | {name: array}


def renamed() -> Adapter:
    adapter = sent_adapter()
    adapter[f"{TOKEN}[0:24]"] = adapter.pop(TOKEN)
    return adapter


@pytest.mark.parametrize(
    ("adapter", "reason"),
    [
        (replaced(TOKEN, np.full(24, np.nan, np.float32)), f"NaN or infinite values in '{TOKEN}'"),
        (replaced(TOKEN, np.full(24, -np.inf, np.float32)), f"NaN or infinite values in '{TOKEN}'"),
        (replaced(TOKEN, np.zeros(23, np.float32)), f"not this bundle's: {TOKEN} differ"),
        (replaced(TOKEN, np.zeros((24, 1), np.float32)), f"not this bundle's: {TOKEN} differ"),
        (replaced("../key", np.zeros(1, np.float32)), "not this bundle's: ../key differ"),
        (lambda: {k: v for k, v in sent_adapter().items() if k != TOKEN}, f"not this bundle's: {TOKEN} differ"),
        (renamed, f"not this bundle's: {TOKEN}, {TOKEN}[0:24] differ"),
        (dict, "not this bundle's: accumulator.blocks.0.attn.proj.bias, "),
    ],
    ids=["NaN", "infinite", "shorter", "another shape", "one more", "one missing", "as a part", "none"],
)
@pytest.mark.parametrize("is_ours", [True, False])
def test_an_adapter_that_is_not_the_bundle_s_is_refused(
    client: Client, adapter: Callable[[], Adapter], reason: str, is_ours: bool
) -> None:
    configs = train_content().configs if is_ours else {}

    assert_refused(client, Content(arrays=adapter(), configs=configs), reason)


@pytest.mark.parametrize("message_type", ["evaluate", "train.code", "query", "system", "../train", "TRAIN"])
def test_a_message_of_an_unknown_type_is_refused_by_name(client: Client, message_type: str) -> None:
    assert_refused(client, train_content(), f"{message_type!r} is no message this client answers", message_type)


@pytest.mark.parametrize("changes", [{"epochs": 10**12}, {"epochs": 10**12, "batch_size": 10**12}, {"epochs": 2**62}])
def test_work_without_end_ends_at_the_deadline_and_what_was_done_is_answered(
    client: Client, changes: dict[str, int]
) -> None:
    answer = client.ask(train_content(deadline_seconds=0.5, learning_rate=1e-4, **changes))

    assert isinstance(answer, Content)
    assert 1 <= answer.metrics["metrics"]["steps"] < 100_000
    # Four fifths of half a second, and the step that was under way.
    assert answer.metrics["metrics"]["train_seconds"] < 5
    assert list(answer.arrays) == answer.configs["reply"]["coverage"]


def test_a_deadline_too_short_for_a_single_step_is_answered_with_an_error(client: Client) -> None:
    assert_refused(client, train_content(deadline_seconds=1e-9), "over before the first step was done")


def test_a_step_size_that_makes_training_diverge_is_answered_with_an_error(client: Client) -> None:
    assert_refused(client, train_content(learning_rate=1e9, epochs=10**12), "training diverged")


def test_a_client_that_was_attacked_keeps_nothing_but_its_last_honest_answer(tmp_path: Path) -> None:
    with serving_client(tmp_path) as client:
        assert_refused(client, train_content(clip=math.nan), "`$.clip`")

    assert client.device.files() == {"answered"}
    assert {path.name for path in tmp_path.rglob("*")} == {"state", "identity.pem", "node.json", "answered"}
