"""What is predicted from what: the promises of the two objectives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from configs import PARAMS
from tiny_models import CAUSAL, CLOZE, VOCABULARY, make

from recurlm.objective import OBJECTIVES, objective_of

MASK = 1


@pytest.mark.parametrize("name", [*CAUSAL, *CLOZE])
def test_a_model_that_reads_both_sides_predicts_what_is_between(name: str) -> None:
    assert objective_of(make(name)) is OBJECTIVES["cloze" if name in CLOZE else "causal"]


def test_a_causal_model_predicts_the_next_token() -> None:
    inputs, targets = OBJECTIVES["causal"].inputs_and_targets(torch.arange(12).reshape(2, 6), MASK, mask_prob=0.5)
    assert inputs.tolist() == [[0, 1, 2, 3, 4], [6, 7, 8, 9, 10]]
    assert targets.tolist() == [[1, 2, 3, 4, 5], [7, 8, 9, 10, 11]]


def test_a_cloze_model_reads_masks_and_predicts_what_stood_there() -> None:
    inputs, targets = OBJECTIVES["cloze"].inputs_and_targets(torch.full((50, 101), 7), MASK, mask_prob=0.1)
    assert set(inputs.unique().tolist()) == {MASK, 7}
    assert 0.05 < (inputs == MASK).float().mean() < 0.15
    assert bool((targets == 7).all())
    assert inputs.shape == targets.shape == (50, 100)


@pytest.mark.parametrize("name", ["gru", "bigru"])
def test_predictions_never_read_their_own_token_and_cover_all_others(name: str) -> None:
    model = make(name)
    objective = objective_of(model)
    tokens = torch.randint(2, VOCABULARY, (2, 150))

    def features(tokens: torch.Tensor) -> torch.Tensor:
        parts = list(objective.predictions(model, tokens))
        assert parts[0][0].start == 0
        return torch.cat([part for _, part in parts], dim=1)

    before = features(tokens)
    assert before.shape[1] == 149
    changed = tokens.clone()
    changed[:, 140] = (changed[:, 140] + 1) % VOCABULARY
    after = features(changed)
    assert torch.equal(before[:, 139], after[:, 139])  # what predicts token 140
    assert not torch.equal(before[:, 140], after[:, 140])
    assert torch.equal(before[:, 138], after[:, 138]) == (name == "gru")


@pytest.mark.parametrize("name", ["lstm", "bilstm"])
def test_the_context_around_a_target_is_what_a_window_holds(name: str) -> None:
    objective = objective_of(make(name))
    windows = np.arange(objective.window_size(3))[None]
    before, target, after = objective.around(windows)
    assert np.hstack([before, target[:, None], after]).tolist() == windows.tolist()
    assert before.shape[1] == 3
    assert after.shape[1] == (3 if name == "bilstm" else 0)


@pytest.mark.parametrize("name", PARAMS.variants)
def test_every_state_belongs_to_one_side(name: str) -> None:
    model = make(name)
    names = objective_of(model).state_names(model.recurrence)
    assert sorted(state for side in names.values() for state in side) == sorted(model.recurrence.state_spec)
    assert set(names) == ({"left", "right"} if name == "bilstm" else {"left"})
