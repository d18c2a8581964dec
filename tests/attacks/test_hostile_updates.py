"""One hostile update for each refusal of the gate; none may move the average or stop the round."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from edgefl.errors import RefusedError
from edgefl.update.instruction import Instruction
from edgefl_server.rounds.gate import read_update
from tests.server.toy_federation import reply_records

NODE = 7
SHAPES = {"head.weight": (4, 4), "positions": (13, 4)}
INSTRUCTION = Instruction(
    edgefl=1,
    bundle_id="ours",
    adapter_version=3,
    round=5,
    exit_index=2,
    draw="own",
    seed=0,
    optimizer="sgd",
    learning_rate=0.1,
    momentum=0.0,
    weight_decay=0.0,
    clip=0.0,
    epochs=1,
    batch_size=1,
    deadline_seconds=1.0,
    reply="values",
)
POSITIONS = np.ones((4, 4), dtype=np.float32)
KEY = "positions[0:4]"

Tamper = Callable[[RecordDict], None]


def honest() -> RecordDict:
    return reply_records(INSTRUCTION, {"head.weight": np.ones((4, 4), dtype=np.float32), KEY: POSITIONS})


def reply_of(records: RecordDict, sender: int = NODE) -> Message:
    return Message(records, reply_to=Message(RecordDict(), sender, "train"))


def with_reply(**fields: int | str | list[str]) -> Tamper:
    """Change the header."""
    return lambda records: records.config_records["reply"].update(fields)


def with_metrics(**fields: float) -> Tamper:
    """Change the metrics; `num_examples` stands for Flower's spelling."""
    named = {key.replace("num_examples", "num-examples"): value for key, value in fields.items()}
    return lambda records: records.metric_records["metrics"].update(named)


def with_arrays(arrays: dict[str, Array]) -> Tamper:
    """Replace the arrays, and the coverage that names them."""

    def tamper(records: RecordDict) -> None:
        records["arrays"] = ArrayRecord(arrays)
        records.config_records["reply"]["coverage"] = list(arrays)

    return tamper


def npy(data: bytes, shape: tuple[int, ...] = (4, 4), stype: str = "numpy.ndarray") -> Tamper:
    """Send bytes of our own as `positions[0:4]`, described as an honest client would."""
    return with_arrays({KEY: Array("float32", shape, stype, data)})


def without(record: str) -> Tamper:
    def tamper(records: RecordDict) -> None:
        del records[record]

    return tamper


HONEST_BYTES = Array(POSITIONS).data
HOSTILE: dict[str, tuple[Tamper, str]] = {
    "no header": (without("reply"), "no edgefl ReplyHeader"),
    "no metrics": (without("metrics"), "`metrics` cannot be used"),
    "no arrays": (without("arrays"), "or there are none"),
    "another bundle": (with_reply(bundle_id="theirs"), "bundle_id is 'theirs'"),
    "another adapter version": (with_reply(adapter_version=2), "adapter_version is 2"),
    "another round": (with_reply(round=6), "round is 6"),
    "a delta nobody asked for": (with_reply(reply="delta"), "reply is 'delta'"),
    "an exit beyond its tier": (with_reply(exit_index=11), "trained exit 11"),
    "a header of another type": (with_reply(round="5"), "round"),
    "coverage of more than was sent": (with_reply(coverage=["head.weight", KEY, "positions[4:5]"]), "of `coverage`"),
    "coverage of less than was sent": (with_reply(coverage=["head.weight"]), "of `coverage`"),
    "no samples": (with_metrics(num_examples=0), "num-examples"),
    "negative samples": (with_metrics(num_examples=-(10**6)), "num-examples"),
    "a fraction of a sample": (with_metrics(num_examples=0.5), "num-examples"),
    "an infinite loss": (with_metrics(loss=float("inf")), "not finite"),
    "a tensor the adapter does not have": (with_arrays({"lm_head": Array(POSITIONS)}), "no tensor of the adapter"),
    "a key outside the grammar": (with_arrays({"positions[::2]": Array(POSITIONS)}), "no tensor key|no range"),
    "a part outside the tensor": (with_arrays({"positions[10:14]": Array(POSITIONS)}), "reaches outside"),
    "an empty part": (with_arrays({"positions[4:4]": Array(np.ones((0, 4), dtype=np.float32))}), "is empty"),
    "parts that overlap, to weigh twice": (
        with_arrays({KEY: Array(POSITIONS), "positions[3:4]": Array(POSITIONS[:1])}),
        "overlaps",
    ),
    "another shape": (with_arrays({KEY: Array(POSITIONS[:2])}), r"header .*\(2, 4\)"),
    "a shape that would broadcast": (with_arrays({KEY: Array(POSITIONS[:, :1])}), r"header .*\(4, 1\)"),
    "float64": (with_arrays({KEY: Array(POSITIONS.astype(np.float64))}), "header .*<f8"),
    "big-endian": (with_arrays({KEY: Array(POSITIONS.astype(">f4"))}), "header .*>f4"),
    "Fortran order": (
        with_arrays({KEY: Array(np.asfortranarray(np.arange(16, dtype="<f4").reshape(4, 4)))}),
        "'fortran_order': True",
    ),
    "NaN": (with_arrays({KEY: Array(np.full((4, 4), np.nan, dtype=np.float32))}), "NaN or infinite"),
    "one infinity": (with_arrays({KEY: Array(np.where(np.eye(4) > 0, np.inf, 1).astype("<f4"))}), "NaN or infinite"),
    "pickled bytes": (npy(b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07os.exit\x94."), "no .npy"),
    "pickled objects in a .npy file": (npy(HONEST_BYTES.replace(b"'<f4'", b"'|O' ")), "header .*O"),
    "a header that asks for terabytes": (npy(HONEST_BYTES.replace(b"(4, 4), ", b"(2**40,)")), "header .*2[*][*]40"),
    "a header of a larger array": (npy(HONEST_BYTES.replace(b"(4, 4)", b"(4, 9)")), r"header .*\(4, 9\)"),
    "values that are cut short": (npy(HONEST_BYTES[:-4]), "has 60 bytes of values, expected 64"),
    "bytes behind the values": (npy(HONEST_BYTES + b"more"), "has 68 bytes of values, expected 64"),
    "a header that is no Python": (npy(HONEST_BYTES.replace(b"{'descr'", b"{{{(((((")), "header"),
    "a header longer than the message": (npy(HONEST_BYTES[:8] + b"\xff\xff" + HONEST_BYTES[10:]), "header"),
    "an archive": (npy(b"PK\x03\x04" + HONEST_BYTES), "no .npy"),
    "no bytes": (npy(b""), "no .npy"),
    "another serialisation": (npy(HONEST_BYTES, stype="torch.tensor"), "stored as 'torch.tensor'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_update_is_refused_with_a_reason(name: str) -> None:
    tamper, reason = HOSTILE[name]
    records = honest()
    tamper(records)
    with pytest.raises(RefusedError, match=reason):
        read_update(NODE, reply_of(records), {NODE: INSTRUCTION}, SHAPES)


def test_what_all_of_these_started_from_is_accepted() -> None:
    update = read_update(NODE, reply_of(honest()), {NODE: INSTRUCTION}, SHAPES)
    assert update.parts.keys() == {"head.weight", KEY}
    assert (update.metrics.num_examples, update.num_bytes) == (10, 4 * (16 + 16))


@pytest.mark.parametrize(("asked", "sender"), [(NODE, 8), (8, 8)])
def test_a_reply_of_a_node_that_was_not_asked_is_refused(asked: int, sender: int) -> None:
    with pytest.raises(RefusedError, match="node 8 was not asked"):
        read_update(asked, reply_of(honest(), sender), {NODE: INSTRUCTION}, SHAPES)


def test_metrics_and_arrays_in_each_others_place_are_refused() -> None:
    records = honest()
    swapped = RecordDict(
        {
            "arrays": MetricRecord(),
            "reply": records.config_records["reply"],
            "metrics": ConfigRecord({"num-examples": 1}),
        }
    )
    with pytest.raises(RefusedError):
        read_update(NODE, reply_of(swapped), {NODE: INSTRUCTION}, SHAPES)
