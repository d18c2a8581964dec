"""Every hand-written VJP against torch.autograd in float64, on shapes that hypothesis draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from edgefl_export.graphs.accumulator import Modulate, ModulateVjp
from edgefl_export.graphs.accumulator_block import AccumulatorShape
from edgefl_export.graphs.answer import Answer, AnswerVjp
from edgefl_export.graphs.block import SAVED, Block, BlockShape, Embed, Rows, Saving
from edgefl_export.graphs.block_vjp import BlockVjp, Inputs
from edgefl_export.graphs.derivatives import (
    SQRT_HALF,
    attention,
    attention_vjp,
    doubled_gelu_slope,
    layer_norm_vjp,
    linear_gradients,
    merge_heads,
    split_heads,
    standardize,
)
from edgefl_export.graphs.history import AppendHistory, AppendHistoryVjp, CloseHistory, OpenHistory
from edgefl_export.model.accumulator import AccumulatorBlock, Head
from edgefl_export.model.config import AccumulatorConfig
from tests.export.networks import small_backbone

EPS = 1e-5
few = settings(max_examples=12)
size = st.integers(1, 5)
seeds = st.integers(0, 2**16)


def agree(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    assert len(found) == len(expected)
    for own, autograd in zip(found, expected, strict=True):
        assert own.shape == autograd.shape
        torch.testing.assert_close(own, autograd, rtol=1e-10, atol=1e-10)


class Draw:
    """Makes random float64 tensors that autograd follows."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        """Return the next tensor."""
        return torch.randn(*shape, dtype=torch.float64, generator=self.generator).requires_grad_()


@few
@given(seed=seeds, rows=size, width=st.integers(2, 9))
def test_layer_norm(seed: int, rows: int, width: int) -> None:
    draw = Draw(seed)
    x, weight, gradient = draw(2, rows, width), draw(width), draw(2, rows, width)
    expected = torch.autograd.grad(F.layer_norm(x, (width,), weight, eps=EPS), x, gradient)
    standardized, inverse_std = standardize(x, EPS)
    agree([standardized * weight], [F.layer_norm(x, (width,), weight, eps=EPS)])
    agree([layer_norm_vjp(gradient * weight, standardized, inverse_std)], expected)


def test_gelu_has_twice_the_slope_of_the_exact_gelu() -> None:
    x = torch.linspace(-6, 6, 101, dtype=torch.float64, requires_grad=True)
    agree([doubled_gelu_slope(x * SQRT_HALF)], torch.autograd.grad(2 * F.gelu(x).sum(), x))


@few
@given(seed=seeds, rows=size, tokens=size, heads=size, head_size=size)
def test_attention(seed: int, rows: int, tokens: int, heads: int, head_size: int) -> None:
    draw, scale = Draw(seed), 0.37
    q, k, v = draw(2, heads, rows, head_size), draw(2, heads, tokens, head_size), draw(2, heads, tokens, head_size)
    gradient = draw(2, heads, rows, head_size)
    plain = F.scaled_dot_product_attention(q, k, v, scale=scale)
    read, weights = attention(q, k, v, scale)
    agree([read], [plain])
    expected = torch.autograd.grad(plain, (q, k, v), gradient)
    agree(attention_vjp(gradient, q, k, v, weights, scale), expected)


@few
@given(seed=seeds, rows=size, inputs=size, outputs=size)
def test_a_linear_layer(seed: int, rows: int, inputs: int, outputs: int) -> None:
    draw = Draw(seed)
    x, weight, bias, gradient = draw(2, rows, inputs), draw(outputs, inputs), draw(outputs), draw(2, rows, outputs)
    agree(linear_gradients(gradient, x), torch.autograd.grad(F.linear(x, weight, bias), (weight, bias), gradient))


def test_heads_are_split_as_torch_splits_them_and_merged_back() -> None:
    x = torch.arange(2 * 3 * 8.0).reshape(2, 3, 8)
    split = split_heads(x, 4)
    assert torch.equal(split[1, 2], x[1, :, 4:6])
    assert torch.equal(merge_heads(split), x)


@dataclass(frozen=True)
class BlockCase:
    """A block's shape, its input and its weights as the graphs take them."""

    shape: BlockShape
    cls: Tensor
    patches: Tensor
    weights: tuple[Tensor, ...]

    @property
    def parallel(self) -> tuple[Tensor, ...]:
        """The parallel adapter's part of the weights."""
        return self.weights[16:]

    def plain(self) -> Tensor:
        """Return the block's output written with torch's own operators, all rows of it."""
        norm1, norm1_b, *qkv, proj, proj_b, norm2, norm2_b, fc1, fc1_b, fc2, fc2_b = self.weights[:16]
        width = (self.shape.width,)
        z = torch.cat([self.cls, self.patches], dim=1)
        u = F.layer_norm(z, width, norm1, norm1_b, self.shape.eps)
        q, k, v = (split_heads(part, self.shape.heads) for part in (F.linear(u, *qkv[i : i + 2]) for i in (0, 2, 4)))
        y = z + F.linear(merge_heads(F.scaled_dot_product_attention(q, k, v)), proj.T, proj_b)
        hidden = F.gelu(F.linear(F.layer_norm(y, width, norm2, norm2_b, self.shape.eps), fc1, fc1_b))
        out = y + F.linear(hidden, fc2.T, fc2_b)
        if self.parallel:
            down, down_b, up, up_b = (tensor[0] for tensor in self.parallel)
            out = out + 0.3 * F.linear(F.relu(F.linear(y, down, down_b)), up, up_b)
        return out


@st.composite
def block_cases(draw: st.DrawFn, *, parallel: bool) -> BlockCase:
    heads = draw(st.integers(1, 3))
    width = heads * draw(st.integers(2, 5))
    tokens, hidden, rank = draw(size), draw(size), draw(size)
    random = Draw(draw(seeds))
    shapes: list[tuple[int, ...]] = [(width,), (width,), *[(width, width), (width,)] * 4]
    shapes += [(width,), (width,), (hidden, width), (hidden,), (hidden, width), (width,)]
    if parallel:
        shapes += [(1, rank, width), (1, rank), (1, width, rank), (1, width)]
    return BlockCase(
        shape=BlockShape(width=width, heads=heads, eps=1e-6, parallel_scale=0.3 if parallel else None),
        cls=random(2, 1, width),
        patches=random(2, tokens, width),
        weights=tuple(random(*shape) for shape in shapes),
    )


@pytest.mark.parametrize("parallel", [False, True])
@few
@given(data=st.data())
def test_a_block_computes_all_rows_and_the_exits_block_the_same_cls_row(parallel: bool, data: st.DataObject) -> None:
    case = data.draw(block_cases(parallel=parallel))
    expected = case.plain()
    all_rows = Block(case.shape, "all")(case.cls, case.patches, *case.weights)
    agree(all_rows[:2], [expected[:, :1], expected[:, 1:]])
    agree(Block(case.shape, "cls")(case.cls, case.patches, *case.weights)[:1], [expected[:, :1]])


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("inputs", ["all", "cls", "none"])
@pytest.mark.parametrize("rows", ["all", "cls"])
@pytest.mark.parametrize("saving", ["little", "all"])
@few
@given(data=st.data())
def test_a_blocks_vjp(saving: Saving, rows: Rows, inputs: Inputs, parallel: bool, data: st.DataObject) -> None:
    case = data.draw(block_cases(parallel=parallel))
    outputs = Block(case.shape, rows)(case.cls, case.patches, *case.weights)
    made, everything = (outputs[:2], outputs[2:]) if rows == "all" else (outputs[:1], outputs[1:])
    # A parallel adapter's hidden output follows, whatever is saved before it.
    saved = (*everything[: len(SAVED[saving])], *everything[len(SAVED["all"]) :])
    gradient = [torch.randn_like(tensor) for tensor in made]
    found = BlockVjp(case.shape, rows, inputs, saving)(*gradient, *saved, *case.weights)

    wanted = {"all": [case.cls, case.patches], "cls": [case.cls], "none": []}[inputs] + list(case.parallel)
    plain = case.plain()
    read, at_read = (plain, torch.cat(gradient, dim=1)) if rows == "all" else (plain[:, :1], gradient[0])
    agree(found, torch.autograd.grad(read, wanted, at_read) if wanted else [])


def block_weights(block: AccumulatorBlock) -> list[Tensor]:
    """Return an Accumulator block's weights in the graphs' order: of qkv first the queries' rows, then the rest."""
    norm1, norm1_bias, qkv, *rest = block.parameters()
    return [norm1, norm1_bias, *qkv.split([len(norm1), 2 * len(norm1)]), *rest]


@dataclass(frozen=True)
class AccumulatorCase:
    """An Accumulator and its head in torch, and what their graphs take."""

    shape: AccumulatorShape
    block: AccumulatorBlock
    head: Head
    client: Tensor
    history: Tensor
    cls: Tensor
    positions: Tensor

    @property
    def weights(self) -> list[Tensor]:
        """The block's weights, in the graphs' order."""
        return block_weights(self.block)

    @property
    def position(self) -> Tensor:
        """The newest token's row of the positions, (1, D)."""
        row = self.history.shape[1] + 1
        return self.positions[row : row + 1]

    def tokens(self) -> Tensor:
        """Return all output tokens of the plain Accumulator, (B, n + 2, D)."""
        client = self.client.expand(self.cls.shape[0], 1, -1)
        x = torch.cat([client, self.history, self.cls], dim=1)
        tokens: Tensor = self.block(x + self.positions[: x.shape[1]])
        return tokens

    def logits(self) -> Tensor:
        """Return the exit's logits, (B, C)."""
        read = self.tokens()[:, 0]
        logits: Tensor = self.head(read + self.cls[:, 0] if self.shape.residual else read)
        return logits

    def kept(self) -> tuple[Tensor, Tensor]:
        """Return keys and values of client token and history, (B, heads, n + 1, d), from torch's own layers."""
        client = self.client.expand(self.cls.shape[0], 1, -1)
        x = torch.cat([client, self.history], dim=1)
        qkv = self.block.attn.qkv(self.block.norm1(x + self.positions[: x.shape[1]]))
        _, keys, values = (split_heads(t, self.shape.heads) for t in qkv.split(self.shape.width, dim=-1))
        return keys.detach().requires_grad_(), values.detach().requires_grad_()

    def answered(self) -> tuple[Tensor, ...]:
        """Return what the answering graphs take before the weights."""
        return (*self.kept(), self.cls, self.position, self.client, self.positions[:1])


@st.composite
def accumulator_cases(
    draw: st.DrawFn, *, residual: bool = True, head: Literal["mlp", "linear"] = "mlp"
) -> AccumulatorCase:
    heads, history = draw(st.integers(1, 3)), draw(st.integers(0, 4))
    width = heads * draw(st.integers(2, 4))
    config = AccumulatorConfig(width=width, blocks=9, classes=draw(size), mlp_dim=draw(size), heads=heads, head=head)
    seed = draw(seeds)
    torch.manual_seed(seed)
    block, classifier = AccumulatorBlock(config).double(), Head(config).double()
    random = Draw(seed)
    with torch.no_grad():
        for parameter in (*block.parameters(), *classifier.parameters()):
            parameter.copy_(random(*parameter.shape))
    return AccumulatorCase(
        shape=AccumulatorShape(width=width, heads=heads, residual=residual, head=head),
        block=block,
        head=classifier,
        client=random(width),
        history=random(2, history, width),
        cls=random(2, 1, width),
        positions=random(10, width),
    )


def multiplied(rows: Sequence[Tensor], layers: Sequence[tuple[str, bool]]) -> dict[str, Tensor]:
    """Return the gradients of linear layers from the rows a call leaves: (name, whether it has a bias)."""
    found = {}
    for (name, has_bias), gradient, x in zip(layers, rows[::2], rows[1::2], strict=True):
        found |= {f"{name}.weight": gradient.T @ x} | ({f"{name}.bias": gradient.sum(0)} if has_bias else {})
    return found


LINEARS = [("attn.qkv", False), ("attn.proj", True), ("mlp.fc1", True), ("mlp.fc2", True)]
NORMS = ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"]


def gradients_of(loss: Tensor, module: torch.nn.Module) -> dict[str, Tensor]:
    parameters = dict(module.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
    return dict(zip(parameters, found, strict=True))


def agree_by_name(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    agree([found[name] for name in expected], list(expected.values()))


@few
@given(data=st.data())
def test_modulating_a_token_reads_only_what_is_kept_of_the_others(data: st.DataObject) -> None:
    case = data.draw(accumulator_cases())
    keys, values = case.kept()
    made = Modulate(case.shape)(keys, values, case.cls, case.position, *case.weights)
    modified, keys_out, values_out = made[:3]
    agree([modified], [case.tokens()[:, -1:]])
    longer = dataclasses.replace(case, history=torch.cat([case.history, modified], dim=1))
    agree([keys_out, values_out], longer.kept())


@few
@given(data=st.data())
def test_the_vjp_of_modulating_a_token(data: st.DataObject) -> None:
    case = data.draw(accumulator_cases())
    keys, values = case.kept()
    position = case.position.detach().requires_grad_()
    plain = Modulate(case.shape)(keys, values, case.cls, position, *case.weights)
    (modified, *kept), saved = plain[:3], plain[3:]
    at_modified, *at_kept = (torch.randn_like(tensor) for tensor in plain[:3])
    found = ModulateVjp(case.shape)(
        at_modified, *at_kept, keys, values, case.cls, modified, *saved, position, *case.weights
    )
    loss = sum((a * b).sum() for a, b in zip([modified, *kept], [at_modified, *at_kept], strict=True))
    assert isinstance(loss, Tensor)
    expected = torch.autograd.grad(loss, (case.cls, keys, values, position), retain_graph=True)
    agree(found[:4], expected)
    agree_by_name(
        dict(zip(NORMS, found[4:8], strict=True)) | multiplied(found[8:], LINEARS), gradients_of(loss, case.block)
    )


@pytest.mark.parametrize(("residual", "head"), [(True, "mlp"), (False, "mlp"), (True, "linear")])
@few
@given(data=st.data())
def test_answering_at_an_exit(residual: bool, head: Literal["mlp", "linear"], data: st.DataObject) -> None:
    case = data.draw(accumulator_cases(residual=residual, head=head))
    weights = (*case.weights, *case.head.parameters())
    answered = case.answered()
    logits = Answer(case.shape)(*answered, *weights)
    agree([logits], [case.logits()])

    labels = torch.randint(logits.shape[1], (2,))
    sample_weights = torch.tensor([0.7, 0.2], dtype=torch.float64)
    loss = (F.cross_entropy(logits, labels, reduction="none") * sample_weights).sum()
    keys, values, cls, *_ = answered
    found = AnswerVjp(case.shape)(labels, sample_weights, *answered, *weights)
    agree(found[:4], [loss, *torch.autograd.grad(loss, (cls, keys, values), retain_graph=True)])

    # The client token's query and the token itself are left to CloseHistory, which sees all that reads it.
    at_query, at_token = found[4:6]
    nothing = torch.zeros_like(keys[:, :, :1])
    closed = CloseHistory(case.shape)(
        nothing, nothing, at_query, at_token, case.client, case.positions[:1], *case.weights
    )
    at_positions, at_client = torch.autograd.grad(loss, (case.positions, case.client), retain_graph=True)
    row = case.history.shape[1] + 1
    agree([found[6], closed[0], closed[1]], [at_positions[row : row + 1], at_client, at_positions[:1]])
    of_block = gradients_of(loss, case.block)
    norms = dict(zip([*NORMS, "norm.weight", "norm.bias"], found[7:13], strict=True))
    norms["norm1.weight"], norms["norm1.bias"] = (a + b for a, b in zip(found[7:9], closed[2:4], strict=True))
    rows = [torch.cat([found[13], closed[4]]), torch.cat([found[14], closed[5]]), *found[15:]]
    layers = [("mlp.fc1", True), ("mlp.fc2", True)] if head == "mlp" else [("mlp", True)]
    expected = gradients_of(loss, case.head)
    agree_by_name({name: norms[name] for name in NORMS} | multiplied(rows[:8], LINEARS), of_block)
    agree_by_name({name: norms[name] for name in ("norm.weight", "norm.bias")} | multiplied(rows[8:], layers), expected)


def test_a_sample_of_weight_0_changes_no_gradient() -> None:
    shape = AccumulatorShape(width=4, heads=2, residual=True, head="linear")
    block, head = (
        part(AccumulatorConfig(width=4, blocks=3, classes=3, mlp_dim=5, heads=2, head="linear")).double()
        for part in (AccumulatorBlock, Head)
    )
    weights = [tensor.detach() for tensor in (*block_weights(block), *head.parameters())]
    draw, labels = Draw(0), torch.tensor([2, 0, 1])
    keys, values, cls = draw(3, 2, 2, 2), draw(3, 2, 2, 2), draw(3, 1, 4)
    rest = (draw(1, 4), draw(4), draw(1, 4), *weights)
    alone = AnswerVjp(shape)(labels[:2], torch.ones(2).double(), keys[:2], values[:2], cls[:2], *rest)
    padded = AnswerVjp(shape)(labels, torch.tensor([1.0, 1, 0]).double(), keys, values, cls, *rest)
    agree([padded[0], *padded[4:13]], [alone[0], *alone[4:13]])
    agree([tensor[:2] for tensor in padded[1:4]], alone[1:4])
    layers = [*LINEARS, ("mlp", True)]
    agree_by_name(multiplied(padded[13:], layers), multiplied(alone[13:], layers))


@few
@given(data=st.data())
def test_the_history_opens_with_the_client_token_for_each_sample(data: st.DataObject) -> None:
    case = data.draw(accumulator_cases())
    opened = OpenHistory(case.shape)(case.cls, case.client, case.positions[:1], *case.weights)
    agree(opened, [tensor[:, :, :1] for tensor in case.kept()])

    at_keys, at_values = (torch.randn_like(tensor) for tensor in opened)
    loss = (opened[0] * at_keys).sum() + (opened[1] * at_values).sum()
    none = torch.zeros_like(case.cls[:1])
    closed = CloseHistory(case.shape)(at_keys, at_values, none, none, case.client, case.positions[:1], *case.weights)
    at_client, at_positions = torch.autograd.grad(loss, (case.client, case.positions), retain_graph=True)
    agree(closed[:2], [at_client, at_positions[:1]])
    norm1 = torch.autograd.grad(loss, list(case.block.norm1.parameters()), retain_graph=True)
    (qkv,) = torch.autograd.grad(loss, [case.block.attn.qkv.weight])
    agree([*closed[2:4], closed[4].T @ closed[5]], [*norm1, qkv])


@few
@given(data=st.data())
def test_appending_a_token_keeps_what_the_accumulator_reads_of_it(data: st.DataObject) -> None:
    case = data.draw(accumulator_cases())
    keys, values = case.kept()
    longer = dataclasses.replace(case, history=torch.cat([case.history, case.cls], dim=1))
    agree(AppendHistory(case.shape)(keys, values, case.cls, case.position, *case.weights), longer.kept())


@few
@given(data=st.data())
def test_the_vjp_of_appending_a_token(data: st.DataObject) -> None:
    case = data.draw(accumulator_cases())
    keys, values = case.kept()
    position = case.position.detach().requires_grad_()
    made = AppendHistory(case.shape)(keys, values, case.cls, position, *case.weights)
    at_made = [torch.randn_like(tensor) for tensor in made]
    found = AppendHistoryVjp(case.shape)(*at_made, keys, case.cls, position, *case.weights)
    trained = [*case.block.norm1.parameters(), case.block.attn.qkv.weight]
    expected = torch.autograd.grad(made, (keys, values, position, *trained), at_made)
    agree([*found[:5], found[5].T @ found[6]], expected)


def test_embedding_is_the_backbones_own_with_the_cls_token_apart() -> None:
    backbone = small_backbone()
    samples, weights = torch.randn(3, 1, 8, 8), backbone.frozen()
    names = ("patch_embed.proj.weight", "patch_embed.proj.bias", "cls_token", "pos_embed")
    cls, patches = Embed(backbone.patch_size)(samples, *(weights[name] for name in names))
    torch.testing.assert_close(torch.cat([cls, patches], dim=1), backbone.embed(samples))
