"""Promises of one step: what it reads, what it predicts, what it forgets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recurlm.config import Train, Variant
from recurlm.model import LanguageModel, build
from recurlm.training.optimizer import optimizers
from recurlm.training.step import forget, make_task, read, update
from recurlm.variants import REGISTRY

START, BLANK, VOCABULARY = 0, 1, 12


def fresh(name: str = "lstm", **changes: object) -> LanguageModel:
    torch.manual_seed(1)
    return build(name, Variant(**{"cell": name, "embedding_size": 8, "hidden_size": 16, **changes}), VOCABULARY)


def states(model: LanguageModel, batch: int) -> dict[str, Tensor]:
    return {name: torch.randn(batch, *shape) for name, shape in model.recurrence.state_spec.items()}


def test_a_cloze_model_reads_blanks_and_predicts_what_stood_there() -> None:
    window = torch.full((50, 101), 7)
    inputs, targets = make_task(fresh("bilstm"), window, BLANK, mask_prob=0.1)
    assert set(inputs.unique().tolist()) == {BLANK, 7}
    assert 0.05 < (inputs == BLANK).float().mean() < 0.15
    assert bool((targets == 7).all())
    assert inputs.shape == targets.shape == (50, 100)


def test_a_causal_model_predicts_the_next_token() -> None:
    window = torch.arange(12).reshape(2, 6)
    inputs, targets = make_task(fresh(), window, BLANK, mask_prob=0.5)
    assert inputs.tolist() == [[0, 1, 2, 3, 4], [6, 7, 8, 9, 10]]
    assert targets.tolist() == [[1, 2, 3, 4, 5], [7, 8, 9, 10, 11]]


def test_a_row_forgets_its_whole_state_or_nothing() -> None:
    state = {"h": torch.ones(1000, 3), "c": torch.ones(1000, 2)}
    assert all(torch.equal(value, state[name]) for name, value in forget(state, 0.0).items())
    assert all(not value.any() for value in forget(state, 1.0).values())
    torch.manual_seed(1)
    some = forget(state, 0.25)
    rows = some["h"][:, 0]
    assert 180 < 1000 - rows.sum() < 320
    assert torch.equal(some["h"], rows[:, None].expand(-1, 3))
    assert torch.equal(some["c"], rows[:, None].expand(-1, 2))


@pytest.mark.parametrize("name", REGISTRY)
def test_a_document_is_read_as_if_nothing_stood_before_it(name: str) -> None:
    """Whatever the state and the text before it are, its outputs are those of the document alone."""
    model = fresh(name, layers=2).eval()
    inputs = torch.randint(2, VOCABULARY, (3, 9))
    inputs[0, 0] = inputs[1, 4] = inputs[2, 8] = START
    begins = inputs == START
    y, after = split_nll(model, inputs, begins, states(model, 3))
    for row, at in enumerate((0, 4, 8)):
        alone, end = model.read(inputs[row : row + 1, at:], model.initial_state(1))
        if model.causal:
            torch.testing.assert_close(y[row, at:], alone[0])
            torch.testing.assert_close({key: value[row : row + 1] for key, value in after.items()}, end)
        else:  # a cut of any row hides what stands to the right of it from all
            until = {0: 4, 4: 8, 8: 9}[at]
            alone, _ = model.read(inputs[row : row + 1, at:until], model.initial_state(1))
            torch.testing.assert_close(y[row, at:until], alone[0])


@pytest.mark.parametrize("name", REGISTRY)
def test_a_window_without_a_beginning_is_read_in_one(name: str) -> None:
    model = fresh(name, layers=2).eval()
    inputs, state = torch.randint(2, VOCABULARY, (3, 9)), states(model, 3)
    if not model.causal:
        state = {key: value * (not key.startswith("right.")) for key, value in state.items()}
    y, after = split_nll(model, inputs, torch.zeros(3, 9, dtype=torch.bool), state)
    expected, end = model.read(inputs, state)
    assert torch.equal(y, expected)
    assert all(torch.equal(after[key], end[key]) for key in end)


@pytest.mark.parametrize("penalty", ["ar", "tar"])
def test_a_penalty_moves_the_weights_and_is_no_part_of_the_loss_that_is_told(penalty: str) -> None:
    told, weights = [], []
    for value in (0.0, 5.0):
        model, recipe = fresh(), Train(precision="fp32", **{penalty: value})
        block = Variant(cell="lstm", embedding_size=8, hidden_size=16)
        torch.manual_seed(2)
        task = make_task(model, torch.randint(2, VOCABULARY, (4, 9)), BLANK, 0.0)
        begins, updates = torch.zeros(4, 8, dtype=torch.bool), optimizers(model, recipe, 0.01, 0.01)
        loss, _ = update(model, task, begins, model.initial_state(4), recipe, block, updates, "fp32", rows=4)
        told.append(loss)
        weights.append(model.recurrence.recurrent_matrices()[0].detach().clone())
    assert told[0] == told[1]
    assert not torch.equal(*weights)
