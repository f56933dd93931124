"""Gradient flow, effective context and gates of tiny models against slow and obvious references."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import PARAMS, ZOO, model_config
from hypothesis import given
from hypothesis import strategies as st
from linear_attention import HEADS, KEYS, VALUES, LinearAttention
from tiny_models import CAUSAL, CLOZE, VOCABULARY, make, split_of
from tiny_training import Texts
from torch.nn import functional as F

from recurlm.config import Context, override
from recurlm.diagnostics import context, gates, gradients
from recurlm.diagnostics.intervals import Bootstrap
from recurlm.diagnostics.subset import line_starts, passages
from recurlm.model import build
from recurlm.objective import bidirectional
from recurlm.tokens.encode import write_tokens
from recurlm.tokens.files import open_tokens
from recurlm.tokens.tokenizer import load_tokenizer
from recurlm.variants import REGISTRY

DRAWS = Bootstrap(samples=50, confidence=0.9, seed=1)
# "linear" and "bilinear" have a state of rank 3.
every_causal = pytest.mark.parametrize("name", [*CAUSAL, "linear"])
every_cloze = pytest.mark.parametrize("name", [*CLOZE, "bilinear"])


@pytest.fixture(autouse=True, scope="module")
def linear_attention() -> Iterator[None]:
    """Register the test cell."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, "linear", LinearAttention)
        yield


def text(count: int, length: int) -> np.ndarray:
    return np.random.default_rng(7).integers(2, VOCABULARY, (count, length))


def contexts(**changes: Any) -> Context:
    return override(PARAMS.diagnose.context, changes)


def loss_of(model, x, target):  # type: ignore[no-untyped-def]
    """The loss of one target after embedded inputs [1, time, size], by the fused forward."""
    y, _ = model.recurrence(x, model.initial_state(1))
    return F.cross_entropy(model.decode(y[:, -1]), target)


@every_causal
def test_gradients_of_inputs_are_those_of_the_fused_forward(name: str) -> None:
    model, tokens = make(name), text(3, 12)
    flow = gradients.flow(model, tokens)
    assert flow.k == list(range(11))
    for row in range(3):
        x = model.embed(torch.from_numpy(tokens[row : row + 1, :-1])).requires_grad_()
        (gradient,) = torch.autograd.grad(loss_of(model, x, torch.from_numpy(tokens[row, -1:])), x)
        np.testing.assert_allclose(flow.inputs[:, row], gradient[0].norm(dim=-1).flip(0), rtol=1e-3, atol=1e-9)


@every_causal
def test_gradients_of_states_are_those_of_an_explicit_unroll_from_that_state(name: str) -> None:
    """For each k: stop after t − k, make the state a leaf, go on to the loss, and ask autograd."""
    model, tokens = make(name), torch.from_numpy(text(2, 9))
    flow = gradients.flow(model, tokens.numpy())
    assert all(np.isnan(norms[0]).all() for norms in flow.states.values())
    for k in range(1, 8):
        state = model.initial_state(2)
        for position in range(8 - k):
            _, state = model.step(tokens[:, position], state)
        state = leaves = {key: value.detach().requires_grad_() for key, value in state.items()}
        for position in range(8 - k, 8):
            logits, state = model.step(tokens[:, position], state)
        F.cross_entropy(logits, tokens[:, -1], reduction="sum").backward()
        norms = {key: leaf.grad.flatten(1).norm(dim=1) for key, leaf in leaves.items()}
        for key, expected in norms.items():
            np.testing.assert_allclose(flow.states[key][k], expected, rtol=1e-3, atol=1e-9)
        whole = torch.stack(list(norms.values())).norm(dim=0)
        np.testing.assert_allclose(flow.states["state"][k], whole, rtol=1e-3, atol=1e-9)


@every_cloze
def test_a_cloze_model_s_gradients_come_from_both_sides(name: str) -> None:
    model, tokens = make(name), torch.from_numpy(text(2, 9))
    flow = gradients.flow(model, tokens.numpy())
    assert flow.k == [1, 2, 3, 4]
    for row in range(2):
        x = model.embed(tokens[row : row + 1]).requires_grad_()
        y, _ = model.recurrence(x, model.initial_state(1))
        loss = F.cross_entropy(model.decode(y[:, 4]), tokens[row, 4:5])
        norms = torch.autograd.grad(loss, x)[0][0].norm(dim=-1)
        np.testing.assert_allclose(flow.inputs[:, row], norms[:4].flip(0), rtol=1e-3)
        np.testing.assert_allclose(flow.inputs[:, 2 + row], norms[5:], rtol=1e-3)


@every_cloze
def test_a_cloze_model_s_nearest_state_is_its_output_and_the_next_one_what_the_cells_carry(name: str) -> None:
    """Against autograd: at k = 1 only the output reaches the loss, at k = 2 only the states of the layers."""
    model, tokens = make(name), torch.from_numpy(text(2, 9))
    flow, target = gradients.flow(model, tokens.numpy()), tokens[:, 4]
    y, _ = model.recurrence(model.embed(tokens), model.initial_state(2))
    outputs = [half.clone().requires_grad_() for half in y[:, 4].chunk(2, dim=-1)]
    loss = F.cross_entropy(model.decode(torch.cat(outputs, dim=-1)), target, reduction="sum")
    expected = torch.cat([gradient.norm(dim=1) for gradient in torch.autograd.grad(loss, outputs)])
    np.testing.assert_allclose(flow.states["output"][0], expected, rtol=1e-3)
    np.testing.assert_allclose(flow.states["state"][0], expected, rtol=1e-3)

    layers = [key for key in flow.states if key.startswith("layer")]
    directions = bidirectional(model.recurrence).directions.values()
    sides = zip((tokens[:, :4], tokens[:, 5:].flip(1)), directions, strict=True)
    norms: dict[str, list[torch.Tensor]] = {key: [] for key in layers}
    for side, (own, recurrence) in enumerate(sides):
        state = recurrence.initial_state(2)
        for token in own[:, :3].unbind(1):
            _, state = recurrence.step(model.embed(token), state)
        leaves = {key: value.detach().requires_grad_() for key, value in state.items()}
        last, _ = recurrence.step(model.embed(own[:, 3]), leaves)
        both = [last, outputs[1].detach()] if side == 0 else [outputs[0].detach(), last]
        F.cross_entropy(model.decode(torch.cat(both, dim=-1)), target, reduction="sum").backward()
        for key in layers:
            norms[key].append(leaves[key].grad.flatten(1).norm(dim=1))
    for key in layers:
        assert (flow.states[key][0] == 0).all()
        np.testing.assert_allclose(flow.states[key][1], torch.cat(norms[key]), rtol=1e-3)
    assert (flow.states["output"][1] == 0).all()
    whole = torch.stack([torch.cat(norms[key]) for key in layers]).norm(dim=0)
    np.testing.assert_allclose(flow.states["state"][1], whole, rtol=1e-3)


@pytest.mark.parametrize("cell", [cell for cell in ZOO if cell in REGISTRY])
def test_every_cell_has_a_flow_and_what_only_counts_tokens_has_none(cell: str) -> None:
    own = {key: value for key, value in ZOO[cell].items() if key not in ("embedding_size", "hidden_size", "mlp_ratio")}
    changes = own | {"embedding_size": 8, "hidden_size": 4 * own.get("heads", 2), "layers": 1, "mlp_ratio": 1.0}
    torch.manual_seed(1)
    model = build(cell, model_config(**changes), VOCABULARY)
    for parameter in model.projection.parameters():
        torch.nn.init.normal_(parameter)
    flow = gradients.flow(model, text(2, 6))
    assert (flow.states["state"][1:] > 0).all()
    counting = {key for key in flow.states if key.endswith((".filled", ".angle")) and cell in ("transformer", "retnet")}
    assert len(counting) == (cell in ("transformer", "retnet"))
    assert all((flow.states[key][1:] == 0).all() for key in counting)


def test_a_state_of_rank_three_has_gradients_a_context_and_gates() -> None:
    model, windows = make("linear"), text(4, 13)
    assert model.recurrence.state_spec == {f"layer{layer}.S": (HEADS, KEYS, VALUES) for layer in (0, 1)}
    described = gradients.describe(gradients.flow(model, windows))
    assert set(described["parts_of_the_state_mean"]) == {"layer0.S", "layer1.S"}
    assert all(value > 0 for value in described["state_mean"][1:])
    measured = context.measure(model, windows, contexts(cut=(1, 4), beyond=(3,)), DRAWS)
    assert [row["k"] for row in measured["cut"]] == [1, 4]
    block = gates.measure(model, windows, PARAMS.diagnose.gates)
    assert [(row["layer"], row["gate"]) for row in block["rows"]] == [("layer0", "decay"), ("layer1", "decay")]
    assert block["reported"] is True


@every_cloze
def test_windows_of_an_even_length_leave_a_cloze_model_equally_much_on_both_sides(name: str) -> None:
    model, windows = make(name), text(2, 10)
    assert gradients.flow(model, windows).k == [1, 2, 3, 4]
    assert context.measure(model, windows, contexts(cut=(2,), beyond=(2,)), DRAWS)["context_tokens"] == 4


def test_a_gradient_vanishes_where_it_stays_below_one_per_cent() -> None:
    assert gradients.vanished_at([0, 1, 2, 3, 4], np.array([9, 1.0, 0.005, 0.02, 0.001])) == 4
    assert gradients.vanished_at([1, 2, 3], np.array([1.0, 0.5, 0.3])) is None
    assert gradients.vanished_at([1, 2], np.array([0.0, 0.0])) is None


@every_causal
@pytest.mark.parametrize("k", [1, 4, 9])
def test_a_cut_context_is_a_fresh_run_from_zero(name: str, k: int) -> None:
    model, windows = make(name), text(5, 13)
    measured = context.measure(model, windows, contexts(cut=(k,), beyond=(3,)), DRAWS)
    expected = []
    for row in windows:
        state = model.initial_state(1)
        for token in row[12 - k : 12]:
            logits, state = model.step(torch.tensor([token]), state)
        expected.append(F.cross_entropy(logits, torch.tensor([row[12]])).item())
    assert measured["cut"][0]["nats_per_token"] == pytest.approx(np.mean(expected), rel=1e-4)
    full = context.target_nll(model, windows[:, :12], windows[:, 12], windows[:, :0]).mean()
    assert measured["cut"][0]["increase"] == pytest.approx(np.mean(expected) - full, abs=1e-4)


@every_cloze
def test_a_cloze_context_is_cut_on_both_sides(name: str) -> None:
    model, windows = make(name), text(4, 17)
    measured = context.measure(model, windows, contexts(cut=(2,), beyond=(2,)), DRAWS)
    logits, _ = model(torch.from_numpy(windows[:, 6:11]), model.initial_state(4))
    expected = F.cross_entropy(logits[:, 2], torch.from_numpy(windows[:, 8])).item()
    assert measured["cut"][0]["pseudo_nats_per_token"] == pytest.approx(expected, rel=1e-4)


@given(st.integers(0, 20), st.integers(0, 10**6), st.floats(0.01, 0.99))
def test_shuffling_keeps_the_tokens_and_dropping_their_order(length: int, seed: int, fraction: float) -> None:
    far = np.tile(np.arange(length), (3, 1))
    random = np.random.default_rng(seed)
    np.testing.assert_array_equal(np.sort(context.shuffle(far, random), axis=1), far)
    kept = context.drop(far, fraction, random)
    assert kept.shape == (3, length - round(fraction * length))
    assert (np.diff(kept, axis=1) > 0).all()
    np.testing.assert_array_equal(far, np.tile(np.arange(length), (3, 1)))


def test_a_changed_far_context_leaves_the_near_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    contexts_read: list[np.ndarray] = []

    def spy(model: object, before: np.ndarray, target: np.ndarray, after: np.ndarray) -> np.ndarray:
        contexts_read.append(before)
        return np.zeros(len(target))

    monkeypatch.setattr(context, "target_nll", spy)
    windows = text(6, 31)
    context.measure(make("rnn"), windows, contexts(cut=(5,), beyond=(10,), drop_fraction=0.25), DRAWS)
    full, cut, shuffled, dropped = contexts_read
    np.testing.assert_array_equal(full, windows[:, :30])
    np.testing.assert_array_equal(cut, windows[:, 25:30])
    assert shuffled.shape == (6, 30)
    assert dropped.shape == (6, 25)
    for changed in (shuffled, dropped):
        np.testing.assert_array_equal(changed[:, -10:], windows[:, 20:30])
    assert (shuffled[:, :20] != windows[:, :20]).any()


def test_the_effective_context_is_where_a_cut_stops_costing() -> None:
    increases = [(1, 1.0), (2, 0.01), (5, 0.3), (10, 0.04), (20, -0.01)]
    assert context.effective_context(increases, 0.05) == 10
    assert context.effective_context([(1, 1.0)], 0.05) is None
    assert context.effective_context([], 0.05) is None


@pytest.mark.parametrize("name", [*CAUSAL, *CLOZE, "linear", "bilinear"])
def test_gates_are_as_many_as_the_cell_has_and_between_closed_and_open(name: str) -> None:
    model = make(name)
    activations = gates.activations(model, text(3, 8))
    layers = {key.rpartition(".")[0] for key in activations}
    assert len(activations) == model.recurrence.gates * len(layers)
    for value in activations.values():
        assert value.shape == (8, 3, HEADS if "linear" in name else 9)
        assert ((value >= 0) & (value <= 1)).all()


def test_gates_are_those_that_the_real_step_uses() -> None:
    """The state after a step, computed from the gates by the paper's equations."""
    tokens = text(3, 8)
    lstm, gru = make("lstm").recurrence, make("gru").recurrence
    x = torch.randn(3, 6)
    state = {key: torch.randn(3, *shape) for key, shape in lstm.state_spec.items()}
    activations, (_, after) = lstm.gate_activations(x, state), lstm.step(x, state)
    for layer in ("layer0", "layer1"):
        i, f, o = (activations[f"{layer}.{gate}"] for gate in ("input", "forget", "output"))
        c, new = state[f"{layer}.c"], after[f"{layer}.c"]
        torch.testing.assert_close(after[f"{layer}.h"], o * torch.tanh(new))
        # What enters is i g with |g| < 1; and with another c, and the same h, c' moves by f of that.
        assert ((new - f * c).abs() <= i + 1e-6).all()
        moved = lstm.step(x, state | {f"{layer}.c": c + 1})[1][f"{layer}.c"]
        torch.testing.assert_close(moved - new, f, rtol=1e-4, atol=1e-5)

    state = {key: torch.randn(3, *shape) for key, shape in gru.state_spec.items()}
    activations, (_, after) = gru.gate_activations(x, state), gru.step(x, state)
    z, h = activations["layer0.update"], state["layer0.h"]
    w, u, b, d = gru.layers[0].gru.parameters()
    n = torch.tanh((x @ w.T + b)[:, 18:] + activations["layer0.reset"] * (h @ u.T + d)[:, 18:])
    torch.testing.assert_close(after["layer0.h"], (1 - z) * n + z * h)
    assert not make("rnn").recurrence.gate_activations(
        x, {"layer0.h": torch.zeros(3, 9), "layer1.h": torch.zeros(3, 9)}
    )
    assert gates.measure(make("rnn"), tokens, PARAMS.diagnose.gates)["reported"] is False


def test_fractions_of_saturated_gates_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.tensor([[[0.05, 0.5, 0.95, 0.99]], [[0.01, 0.95, 0.5, 0.91]]])  # two steps, one window, four units
    monkeypatch.setattr(gates, "activations", lambda model, tokens: {"layer0.forget": values})
    (row,) = gates.measure(make("rnn"), text(1, 2), override(PARAMS.diagnose.gates, {"low": 0.1, "high": 0.9}))["rows"]
    assert (row["layer"], row["gate"]) == ("layer0", "forget")
    assert row["fraction_closed"] == 2 / 8
    assert row["fraction_open"] == 4 / 8
    assert (row["units_always_closed"], row["units_always_open"]) == (0.25, 0.25)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.integers(1, 10), st.integers(2, 80))
def test_passages_lie_inside_one_document(lengths: list[int], count: int, length: int) -> None:
    starts = np.cumsum([0, *(size + 1 for size in lengths)])
    ids = np.arange(starts[-1])
    drawn = passages(ids, starts, count, length, shortest=2, seed=1)
    assert drawn.shape[1] <= length
    assert (np.diff(drawn, axis=1) == 1).all()
    if len(drawn):
        document = np.searchsorted(starts, drawn, side="right")
        assert (document == document[:, :1]).all()
        assert len(set(drawn[:, 0].tolist())) == len(drawn)
    assert len(drawn) == count or drawn.shape[1] == 2


def test_passages_are_halved_until_they_fit() -> None:
    ids, starts = split_of(40)
    assert passages(ids, starts, 2, 100, 8, seed=1).shape == (2, 25)
    assert passages(ids, starts, 2, 100, 50, seed=1).shape == (0, 50)


def test_passages_begin_where_they_may_if_enough_fit() -> None:
    ids, starts = np.arange(82), np.array([0, 41, 82])
    begins = np.isin(ids, (3, 35, 45, 60))  # no 12 tokens of the first document follow its position 35
    drawn = passages(ids, starts, 3, 12, 12, seed=1, begins=begins)
    assert sorted(drawn[:, 0].tolist()) == [3, 45, 60]
    assert passages(ids, starts, 4, 12, 12, seed=1, begins=begins).tolist() == (
        passages(ids, starts, 4, 12, 12, seed=1).tolist()
    )


@pytest.mark.parametrize("kind", ["char", "bpe", "word"])
def test_the_first_token_of_each_line_is_found(kind: str, tmp_path: Path) -> None:
    texts = ["KING.\nTo be, or not\nto be?\n", "LORD.\nThe ships come home.\n"]
    settings = PARAMS.tokenize.model_copy(update={"kind": kind, "vocab_size": 300})
    folder = tmp_path / "tokens"
    write_tokens(folder, settings, {"train": Texts(texts)}, {"name": "a test", "licence": None, "revision": None})
    split = open_tokens(folder, "train")
    tokenizer = load_tokenizer(folder / "tokenizer.json", split.manifest["tokenizer_sha256"])
    first = line_starts(split.ids, split.starts, tokenizer)
    begun = [tokenizer.decode(split.ids[place : place + 1].tolist()) for place in np.flatnonzero(first)]
    lines = [line for text in texts for line in text.splitlines()]
    assert len(begun) == len(lines)
    assert all(line.startswith(token.strip()) for line, token in zip(lines, begun, strict=True))
