"""The order of the calls: every exact saving is visible in it, and nothing is computed that no one reads."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from edgefl.bundle.program import Graph, Program, check_program
from edgefl.core.tensor_slice import merge_slices
from edgefl.errors import BadInputError
from edgefl_export.compose import Composer
from edgefl_export.graphs.catalog import Catalog
from edgefl_export.graphs.rows import rows_graph
from tests.export.networks import small_network

PLAIN = Composer(Catalog(small_network()))
PARALLEL = Composer(Catalog(small_network(parallel_adapter_rank=2)))
KEEPING = Composer(Catalog(small_network(replace=False)))
LAST = 3


def called(program: Program) -> list[str]:
    return [call.graph for call in program.calls]


def walked(program: Program) -> list[str]:
    """Return the calls before the weight gradients of the linear layers, which come last."""
    calls = called(program)
    return calls[: calls.index("close_history") + 1]


def programs(composer: Composer) -> dict[str, Program]:
    exits = range(LAST + 1)
    found = {f"infer/{e}": composer.infer(e) for e in exits} | {"anytime": composer.anytime((0, 2, 3))}
    found |= {f"train/{e}": composer.train(e, 4) for e in exits}
    return found | {f"train/{e}/lean": composer.train(e, 4, "little") for e in exits}


def test_inference_computes_one_row_of_the_exits_block_and_replaces_no_token_there() -> None:
    assert called(PLAIN.infer(2)) == [
        "embed", "open_history", "block", "modulate", "block", "modulate", "block_exit", "answer",
    ]  # fmt: skip


def test_anytime_answers_on_the_way_and_only_at_the_exits_there_are() -> None:
    program = PLAIN.anytime((0, 2, 3))
    assert called(program) == [
        "embed", "open_history", "block", "answer", "modulate", "block", "modulate", "block", "answer", "modulate",
        "block_exit", "answer",
    ]  # fmt: skip
    assert list(program.outputs) == ["logits_00", "logits_02", "logits_03"]


def test_exit_0_trains_without_a_vjp_of_any_block() -> None:
    assert walked(PLAIN.train(0, 4)) == ["embed", "open_history", "block_exit", "answer_vjp", "close_history"]


def test_block_0_saves_nothing_and_block_1_gives_only_its_cls_rows_gradient() -> None:
    assert walked(PLAIN.train(3, 4)) == [
        "embed", "open_history", "block", "modulate_saved", "block_saved", "modulate_saved", "block_saved",
        "modulate_saved", "block_exit_saved", "answer_vjp",
        "block_exit_vjp", "modulate_vjp", "block_vjp", "modulate_vjp", "block_vjp_cls", "modulate_vjp", "close_history",
    ]  # fmt: skip


def test_lean_training_makes_the_same_calls_with_blocks_that_save_little() -> None:
    lean = {
        "block_saved": "block_saved_lean",
        "block_exit_saved": "block_exit_saved_lean",
        "block_exit_vjp": "block_exit_vjp_lean",
        "block_vjp": "block_vjp_lean",
        "block_vjp_cls": "block_vjp_cls_lean",
    }
    assert walked(PLAIN.train(3, 4, "little")) == [lean.get(name, name) for name in walked(PLAIN.train(3, 4))]
    made = [call.outputs for call in PLAIN.train(3, 4, "little").calls if call.graph == "block_saved_lean"]
    assert made[0] == [
        "cls.1", "patches.1", "z.1", "mean1.1", "inverse_std1.1", "y.1", "mean2.1", "inverse_std2.1", "q.1",
    ]  # fmt: skip


def test_at_exit_1_the_exits_block_is_the_one_that_gives_its_cls_rows_gradient() -> None:
    assert walked(PLAIN.train(1, 4))[-4:] == ["answer_vjp", "block_exit_vjp_cls", "modulate_vjp", "close_history"]


def test_parallel_adapters_train_in_block_0_which_then_gives_no_other_gradient() -> None:
    assert walked(PARALLEL.train(2, 4)) == [
        "embed", "open_history", "block_saved", "modulate_saved", "block_saved", "modulate_saved", "block_exit_saved",
        "answer_vjp",
        "block_exit_vjp", "modulate_vjp", "block_vjp", "modulate_vjp", "block_vjp_adapter", "close_history",
    ]  # fmt: skip
    assert walked(PARALLEL.train(0, 4))[-3:] == ["answer_vjp", "block_exit_vjp_adapter", "close_history"]


@pytest.mark.parametrize("composer", [PLAIN, PARALLEL, KEEPING])
def test_nothing_is_made_that_no_one_reads(composer: Composer) -> None:
    for name, program in programs(composer).items():
        made = [tensor for call in program.calls for tensor in call.outputs if tensor]
        read = {tensor for call in program.calls for tensor in call.inputs}
        read |= {tensor for parts in program.outputs.values() for tensor in parts}
        unread = [tensor for tensor in made if tensor not in read]
        # The last token's history is one output of `modulate` with the token itself; nothing else is left over.
        assert unread == [], name


def interface(catalog: Catalog, name: str) -> Graph:
    written = rows_graph(name)
    if written is None:
        whole, outputs = catalog.part_of(name) or (name, None)
        spec = catalog.spec(whole)
        return Graph(file=f"{name}.onnx", inputs=list(spec.inputs), outputs=list(outputs or spec.outputs))
    inputs, made = ([value.name for value in values] for values in (written.graph.input, written.graph.output))
    return Graph(file=f"{name}.onnx", inputs=inputs, outputs=made)


@pytest.mark.parametrize("composer", [PLAIN, PARALLEL, KEEPING])
def test_every_program_fits_the_graphs_it_calls(composer: Composer) -> None:
    catalog = composer.catalog
    names = {name for program in programs(composer).values() for name in called(program)}
    graphs = {name: interface(catalog, name) for name in names}
    tensors = catalog.network.adapter() | catalog.network.backbone.frozen()
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    for name, program in programs(composer).items():
        check_program(name, program, graphs, shapes)


def trained(composer: Composer, exit_index: int) -> dict[str, Sequence[str]]:
    """Return the parts of each tensor that an exit trains, by the tensor's name."""
    parts: dict[str, list[str]] = {}
    for part in merge_slices(composer.train(exit_index, 4).coverage):
        parts.setdefault(part.name, []).append(part.key)
    return {name: tuple(keys) for name, keys in parts.items()}


@pytest.mark.parametrize("composer", [PLAIN, KEEPING])
@pytest.mark.parametrize("exit_index", range(LAST + 1))
def test_an_exit_trains_everything_but_the_position_rows_beyond_it(exit_index: int, composer: Composer) -> None:
    whole = {name: (name,) for name in PLAIN.catalog.network.adapter()}
    # Row 0 is the client token's, row e + 1 the exit's.
    expected = whole | {"accumulator.positions": (f"accumulator.positions[0:{exit_index + 2}]",)}
    assert trained(composer, exit_index) == expected


@pytest.mark.parametrize("exit_index", range(LAST + 1))
def test_an_exit_trains_the_parallel_adapters_down_to_its_block(exit_index: int) -> None:
    rows = {
        name: (f"{name}[0:{exit_index + 1}]",)
        for name in PARALLEL.catalog.network.adapter()
        if name.startswith("parallel_adapters.")
    }
    assert len(rows) == 4
    assert {name: parts for name, parts in trained(PARALLEL, exit_index).items() if name in rows} == rows


def test_a_linear_layer_that_several_calls_use_gets_its_gradient_from_one_product() -> None:
    program = PLAIN.train(2, 4)
    weight = "accumulator.blocks.0.mlp.fc1.weight"
    assert len(program.outputs[weight]) == 1
    # Two modulations and the answer.
    stacked = [call.inputs for call in program.calls if call.outputs == ["accumulator.blocks.0.mlp.fc1.x.rows"]]
    assert stacked == [[f"accumulator.blocks.0.mlp.fc1.x.{call}" for call in ("answer", "1", "0")]]
    # Four linear layers of the Accumulator and two of the head.
    assert called(program).count("linear_gradient") == 6


def test_a_norm_that_several_calls_use_gets_the_sum_of_their_gradients() -> None:
    program = PLAIN.train(2, 4)
    # Two modulations, the answer, and the client token that opened the history; the head answers once.
    assert len(program.outputs["accumulator.blocks.0.norm1.weight"]) == 4
    assert len(program.outputs["accumulator.blocks.0.norm2.weight"]) == 3
    assert len(program.outputs["head.norm.weight"]) == 1


def test_training_takes_at_most_the_batch_asked_for_and_inference_any() -> None:
    train, infer = PLAIN.train(1, 4), PLAIN.infer(1)
    assert (train.batch, infer.batch) == (4, None)
    assert {name: spec.shape for name, spec in train.inputs.items()} == {
        "samples": [None, 1, 8, 8],
        "labels": [None],
        "weights": [None],
    }
    assert infer.inputs["samples"].shape == [None, 1, 8, 8]


def test_where_no_token_is_replaced_tokens_are_appended_and_no_block_saves_or_has_a_vjp() -> None:
    down = ["embed", "open_history", "block", "append_history", "block", "append_history", "block_exit"]
    assert called(KEEPING.infer(2)) == [*down, "answer"]
    back = ["append_history_vjp", "append_history_vjp", "close_history"]
    assert walked(KEEPING.train(2, 4)) == [*down, "answer_vjp", *back]


def test_where_no_token_is_replaced_anytime_answers_on_the_way() -> None:
    assert called(KEEPING.anytime((0, 2, 3))) == [
        "embed", "open_history", "block", "answer", "append_history", "block", "append_history", "block", "answer",
        "append_history", "block_exit", "answer",
    ]  # fmt: skip


def test_where_no_token_is_replaced_a_block_reads_the_tokens_of_the_one_before() -> None:
    blocks = [call for call in KEEPING.train(2, 4).calls if call.graph.startswith("block")]
    assert [call.inputs[:2] for call in blocks] == [["cls", "patches"], ["cls.0", "patches.0"], ["cls.1", "patches.1"]]


@pytest.mark.parametrize("exit_index", range(LAST + 1))
def test_where_no_token_is_replaced_embedding_and_blocks_depend_on_samples_and_frozen_tensors_alone(
    exit_index: int,
) -> None:
    fixed = {"samples", *KEEPING.catalog.network.backbone.frozen()}
    frozen_calls = []
    for call in KEEPING.train(exit_index, 4).calls:
        if all(key.partition("[")[0] in fixed for key in call.inputs):
            frozen_calls.append(call.graph)
            fixed.update(call.outputs)
    assert frozen_calls == ["embed", *["block"] * exit_index, "block_exit"]


def test_where_no_token_is_replaced_lean_training_is_the_same_program() -> None:
    assert KEEPING.train(3, 4, "little") == KEEPING.train(3, 4)


def test_where_no_token_is_replaced_only_the_answer_reads_with_the_accumulator() -> None:
    program = KEEPING.train(2, 4)
    # The answer, two tokens of the history, and the client token that opened it.
    stacked = [call.inputs for call in program.calls if call.outputs == ["accumulator.blocks.0.attn.qkv.x.rows"]]
    assert stacked == [[f"accumulator.blocks.0.attn.qkv.x.{call}" for call in ("answer", "1", "0", "client")]]
    assert len(program.outputs["accumulator.blocks.0.norm1.weight"]) == 4
    assert len(program.outputs["accumulator.blocks.0.norm2.weight"]) == 1


def test_a_network_that_replaces_no_token_beside_parallel_adapters_is_refused() -> None:
    network = small_network(replace=False, parallel_adapter_rank=2)
    message = "replace=False and parallel adapters of rank 2 .* leave out --no-replace or --parallel-adapters"
    with pytest.raises(BadInputError, match=message):
        Composer(Catalog(network))


@pytest.mark.parametrize("replace", [True, False])
def test_a_deeper_accumulator_is_refused_by_name(replace: bool) -> None:
    with pytest.raises(BadInputError, match="depth=2 cannot be exported; use depth=1"):
        Composer(Catalog(small_network(depth=2, replace=replace)))
