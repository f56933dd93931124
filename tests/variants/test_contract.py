"""The contract of a recurrence, for every cell of the registry, every choice that it offers, and all around it."""

from __future__ import annotations

import inspect
import itertools
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from configs import LESSON, model_config
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recurlm.model import build
from recurlm.variants import REGISTRY
from recurlm.variants.base import Recurrence, State, mask_state
from recurlm.variants.compose import Bidirectional

INPUT, HIDDEN = 5, 8
OWN = {"heads": 2, "key_size": 3, "window": 4}  # where a cell has such parameters
CLOSE = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.float64: {"rtol": 1e-10, "atol": 1e-10}}
AROUND: dict[str, dict[str, Any]] = {
    "": {},
    "blocks": {"block": "residual", "conv": 4, "mlp_ratio": 1.5},
    "both": {"bidirectional": True},
    "blocks-both": {"block": "residual", "conv": 3, "bidirectional": True, "concat_layers": True},
}


def cases() -> dict[str, dict[str, Any]]:
    """Each cell, and once more for each other choice; those of params.yaml with all that may stand around them too."""
    found: dict[str, dict[str, Any]] = {}
    for name, cell in REGISTRY.items():
        annotations = inspect.get_annotations(cell.__init__, eval_str=True)
        own = {"cell": name} | {key: value for key, value in OWN.items() if key in annotations}
        for around, changes in AROUND.items() if name in LESSON else [("", {})]:
            found[f"{name}-{around}".rstrip("-")] = own | {"concat_layers": False} | changes
        for key, annotation in annotations.items():
            if get_origin(annotation) is Literal:
                found |= {f"{name}-{choice}": own | {key: choice} for choice in get_args(annotation)[1:]}
            elif annotation is bool:
                default = inspect.signature(cell).parameters[key].default
                found[f"{name}-{key}-{not default}"] = own | {key: not default}
    found["lstm-all"] = {"cell": "lstm", "projection": 3, "cifg": True, "peepholes": True}
    return found


CASES = cases()
every_case = pytest.mark.parametrize("case", CASES)
drawn_case = pytest.mark.parametrize("case", [case for case in CASES if CASES[case]["cell"] in LESSON])
further_case = pytest.mark.parametrize("case", [case for case in CASES if CASES[case]["cell"] not in LESSON])


def make(case: str, layers: int = 2, dtype: torch.dtype = torch.float32) -> Recurrence:
    torch.manual_seed(3)
    config = model_config(**CASES[case], embedding_size=INPUT, hidden_size=HIDDEN, layers=layers, dropout=0.4)
    recurrence = build("tried", config, 11).recurrence
    for parameter in recurrence.parameters():  # fresh biases are zero, which would hide a forgotten one
        torch.nn.init.normal_(parameter, std=0.4)
    return recurrence.to(dtype).eval()


def causal(recurrence: Recurrence) -> bool:
    return not isinstance(recurrence, Bidirectional)


def make_input(recurrence: Recurrence, batch: int, time: int) -> tuple[Tensor, State]:
    dtype = next(recurrence.parameters()).dtype
    x = torch.randn(batch, time, INPUT, dtype=dtype)
    return x, {name: torch.randn(batch, *shape, dtype=dtype) for name, shape in recurrence.state_spec.items()}


def in_pieces(
    recurrence: Recurrence,
    x: Tensor,
    state: State,
    lengths: list[int],
    steps: bool,
    reset: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Read x piece by piece, carrying the state: by `forward`, or in pieces of one by `step`."""
    parts = [(piece, None) for piece in x.split(lengths, dim=1)]
    if reset is not None:
        parts = list(zip(x.split(lengths, dim=1), reset.split(lengths, dim=1), strict=True))

    def read(piece: Tensor, resets: Tensor | None, state: State, backwards: bool) -> tuple[Tensor, State]:
        if not steps:
            return recurrence(piece, state, resets)
        keep = None if resets is None else ~resets[:, 0]
        if keep is not None and not backwards:
            state = mask_state(state, keep)
        y, state = recurrence.step(piece[:, 0], state)
        if keep is not None and backwards:  # read from the right, a text begins behind its first element
            state = mask_state(state, keep)
        return y[:, None], state

    def walk(backwards: bool) -> tuple[list[Tensor], State]:
        outputs, now = [], state
        for piece, resets in reversed(parts) if backwards else parts:
            y, now = read(piece, resets, now, backwards)
            outputs.append(y)
        return outputs[::-1] if backwards else outputs, now

    outputs, end = walk(backwards=False)
    if not isinstance(recurrence, Bidirectional):
        return torch.cat(outputs, dim=1), end
    # A walk from the left has the left half of the outputs right, a walk from the right the other half.
    mirrored, start = walk(backwards=True)
    y_left = torch.cat(outputs, dim=1).chunk(2, dim=-1)[0]
    y_right = torch.cat(mirrored, dim=1).chunk(2, dim=-1)[1]
    left = recurrence.states_of("left")
    return torch.cat([y_left, y_right], dim=-1), {name: (end if name in left else start)[name] for name in state}


def assert_same(found: tuple[Tensor, State], expected: tuple[Tensor, State], case: str) -> None:
    dtype = expected[0].dtype
    # Norms of the small outputs of random matrix states enlarge fp32's rounding; in double nothing is forgiven.
    close = CLOSE[dtype] if CASES[case]["cell"] in LESSON or dtype == torch.float64 else {"rtol": 1e-4, "atol": 2e-4}
    torch.testing.assert_close(found[0], expected[0], **close)
    torch.testing.assert_close(found[1], expected[1], **close)


@every_case
@pytest.mark.parametrize("dtype", CLOSE)
def test_a_chunk_is_read_as_step_by_step(case: str, dtype: torch.dtype) -> None:
    # Three layers of random matrix states enlarge fp32's rounding by far.
    deep = 3 if CASES[case]["cell"] in LESSON or dtype == torch.float64 else 1
    for layers, batch, time in itertools.product((1, deep), (1, 3), (1, 2, 13)):
        recurrence = make(case, layers, dtype)
        x, state = make_input(recurrence, batch, time)
        assert_same(recurrence(x, state), in_pieces(recurrence, x, state, [1] * time, steps=True), case)


@drawn_case
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), batch=st.sampled_from([1, 3]))
@settings(max_examples=20, deadline=None)
def test_any_chunking_with_carried_state_reads_the_same(case: str, lengths: list[int], batch: int) -> None:
    recurrence = make(case)
    x, state = make_input(recurrence, batch, sum(lengths))
    assert_same(in_pieces(recurrence, x, state, lengths, steps=False), recurrence(x, state), case)


@drawn_case
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_resets_are_zero_states_in_any_chunking(case: str, lengths: list[int], seed: int) -> None:
    recurrence = make(case)
    x, state = make_input(recurrence, 3, sum(lengths))
    reset = torch.rand(3, sum(lengths), generator=torch.Generator().manual_seed(seed)) < 0.3
    whole = recurrence(x, state, reset)
    assert_same(in_pieces(recurrence, x, state, lengths, steps=False, reset=reset), whole, case)
    assert_same(in_pieces(recurrence, x, state, [1] * sum(lengths), steps=True, reset=reset), whole, case)


@further_case
@pytest.mark.parametrize("lengths", [[1, 4, 1, 7], [9, 2], [1, 1, 3]], ids=str)
def test_further_cells_read_the_same_in_any_chunking_with_resets(case: str, lengths: list[int]) -> None:
    """Few draws each, since they are many."""
    recurrence = make(case, dtype=torch.float64)
    x, state = make_input(recurrence, 3, sum(lengths))
    for reset in (None, torch.rand(3, sum(lengths), generator=torch.Generator().manual_seed(len(lengths))) < 0.3):
        whole = recurrence(x, state, reset)
        assert_same(in_pieces(recurrence, x, state, lengths, steps=False, reset=reset), whole, case)
        assert_same(in_pieces(recurrence, x, state, [1] * sum(lengths), steps=True, reset=reset), whole, case)


@every_case
def test_nothing_passes_a_reset_in_either_direction(case: str) -> None:
    recurrence = make(case)
    x, state = make_input(recurrence, batch=2, time=7)
    reset = torch.zeros(2, 7, dtype=torch.bool)
    reset[:, 3] = True
    y, _ = recurrence(x, state, reset)
    other = x.clone()
    other[:, :3] += 1
    assert torch.equal(recurrence(other, state, reset)[0][:, 3:], y[:, 3:])
    other = x.clone()
    other[:, 3:] += 1
    assert torch.equal(recurrence(other, state, reset)[0][:, :3], y[:, :3])


@every_case
@pytest.mark.parametrize("resets", [False, True])
def test_gradients_of_chunks_and_of_steps_agree(case: str, resets: bool) -> None:
    recurrence = make(case, layers=2, dtype=torch.float64)
    reset = torch.rand(3, 7, generator=torch.Generator().manual_seed(1)) < 0.3 if resets else None
    x, state = make_input(recurrence, batch=3, time=7)
    inputs = [x, *state.values(), *recurrence.parameters()]
    for tensor in inputs:
        tensor.requires_grad_(True)

    def gradients(steps: bool) -> tuple[Tensor, ...]:
        lengths = [1] * 7 if steps else [7]
        y, end = in_pieces(recurrence, x, state, lengths, steps, reset)
        torch.manual_seed(5)  # the same random weights of the sum on both paths
        loss = sum((value * torch.randn_like(value)).sum() for value in (y, *end.values()))
        return torch.autograd.grad(loss, inputs, materialize_grads=True, allow_unused=True)

    names = ["x", *state, *(name for name, _ in recurrence.named_parameters())]
    for name, fast, reference in zip(names, gradients(steps=False), gradients(steps=True), strict=True):
        # `filled` only says which places of a window count.
        assert resets or reference.abs().max() > 0 or name.endswith("filled")
        torch.testing.assert_close(fast, reference, rtol=1e-8, atol=1e-10)


@every_case
@pytest.mark.parametrize("batch", [1, 3])
def test_the_state_is_what_the_spec_says(case: str, batch: int) -> None:
    recurrence = make(case)
    x, _ = make_input(recurrence, batch, time=4)
    zero = recurrence.initial_state(batch)
    chunk, after_chunk = recurrence(x, zero)
    element, after_step = recurrence.step(x[:, 0], zero)
    for state in (zero, after_chunk, after_step):
        assert {name: tuple(value.shape) for name, value in state.items()} == {
            name: (batch, *shape) for name, shape in recurrence.state_spec.items()
        }
        assert list(state) == list(recurrence.state_spec)
    assert all((value == 0).all() for value in zero.values())
    assert chunk.shape == (batch, 4, recurrence.output_size)
    assert element.shape == (batch, recurrence.output_size)


@every_case
def test_the_initial_state_follows_the_weights_dtype(case: str) -> None:
    state = make(case, dtype=torch.float64).initial_state(2)
    assert {value.dtype for value in state.values()} == {torch.float64}


@every_case
def test_reading_leaves_the_given_state_as_it_was(case: str) -> None:
    recurrence = make(case)
    x, state = make_input(recurrence, batch=3, time=5)
    before = {name: value.clone() for name, value in state.items()}
    recurrence(x, state)
    recurrence.step(x[:, 0], state)
    for name, value in state.items():
        assert torch.equal(value, before[name])


@every_case
def test_rows_of_a_batch_never_see_each_other(case: str) -> None:
    recurrence = make(case)
    x, state = make_input(recurrence, batch=3, time=6)
    alone = [recurrence(x[i : i + 1], {name: value[i : i + 1] for name, value in state.items()}) for i in range(3)]
    joined = {name: torch.cat([end[name] for _, end in alone]) for name in state}
    assert_same((torch.cat([y for y, _ in alone]), joined), recurrence(x, state), case)


@every_case
def test_an_output_reads_what_the_contract_allows_and_all_of_it(case: str) -> None:
    recurrence = make(case, dtype=torch.float64)
    x, state = make_input(recurrence, batch=1, time=6)
    x.requires_grad_(True)
    y, _ = recurrence(x, state)
    for t, other in itertools.product(range(6), range(6)):
        (gradient,) = torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)
        may_read = other <= t if causal(recurrence) else other != t
        assert bool((gradient[0, other] != 0).any()) == may_read, (t, other)


@every_case
def test_dropout_is_silent_in_evaluation_and_acts_between_layers_in_training(case: str) -> None:
    recurrence = make(case, layers=2)
    x, state = make_input(recurrence, batch=3, time=5)
    assert torch.equal(recurrence(x, state)[0], recurrence(x, state)[0])
    recurrence.train()
    assert not torch.equal(recurrence(x, state)[0], recurrence(x, state)[0])


@every_case
def test_fresh_weights_come_from_the_seed_alone(case: str) -> None:
    def fresh(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return list(build("tried", model_config(**CASES[case], hidden_size=HIDDEN), 11).recurrence.parameters())

    assert all(torch.equal(a, b) for a, b in zip(fresh(1), fresh(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(fresh(1), fresh(2), strict=True))


@every_case
def test_gates_are_as_many_as_the_cell_says_and_between_closed_and_open(case: str) -> None:
    recurrence = make(case)
    x, state = make_input(recurrence, batch=3, time=1)
    gates = recurrence.gate_activations(x[:, 0], state)
    parts = {name.rpartition(".")[0] for name in gates}
    assert bool(parts) == bool(recurrence.gates)
    assert len(gates) == recurrence.gates * len(parts)
    for values in gates.values():
        assert values.ndim == 2
        assert len(values) == 3
        assert bool(((values >= 0) & (values <= 1)).all())


KEPT = {
    "qrnn": "c", "mingru": "h", "minlstm": "h", "hgrn": "h", "gla": "S", "hgrn2": "S", "mamba2": "h", "mlstm": "C",
    "mamba3": "h",
}  # fmt: skip


@pytest.mark.parametrize("cell", KEPT)
def test_of_what_a_linear_cell_held_it_keeps_what_its_forget_gate_says(cell: str) -> None:
    recurrence = make(cell, layers=1, dtype=torch.float64)
    x, state = make_input(recurrence, batch=3, time=1)
    name = f"layer0.{KEPT[cell]}"
    more = torch.randn_like(state[name])
    _, after = recurrence.step(x[:, 0], state)
    _, with_more = recurrence.step(x[:, 0], state | {name: state[name] + more})
    gates = recurrence.gate_activations(x[:, 0], state)
    keep = gates["layer0.forget"] if cell != "mingru" else 1 - gates["layer0.update"]
    if more.ndim == 4:  # a number a head, or one a key dimension
        keep = keep.view(3, more.shape[1], -1, 1)
    torch.testing.assert_close(with_more[name] - after[name], keep.expand_as(more) * more)
