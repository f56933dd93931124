"""Promises of weight drop, of dropout that is locked in time, and of the penalties."""

from __future__ import annotations

import pytest
import torch
from configs import PARAMS, model_config
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from recurlm.errors import InputError
from recurlm.model import build
from recurlm.training.regularization import activation_penalty, weight_drop
from recurlm.variants.base import LockedDropout


@pytest.mark.parametrize("name", PARAMS.variants)
def test_weight_drop_acts_on_the_recurrent_matrices_and_leaves_no_trace(name: str) -> None:
    torch.manual_seed(1)
    model = build(name, model_config(name, hidden_size=10), 9)
    matrices = model.recurrence.recurrent_matrices()
    assert len(matrices) == (4 if name == "bilstm" else 2)
    assert all(matrix.shape[1] == 10 for matrix in matrices)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    tokens = torch.randint(9, (3, 7))
    whole, _ = model(tokens, model.initial_state(3))
    with weight_drop(matrices, 0.5):
        dropped, _ = model(tokens, model.initial_state(3))
        dropped.sum().backward()
        hidden = [matrix == 0 for matrix in matrices]
        changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert not torch.allclose(whole, dropped)
    assert len(changed) == len(matrices)
    for matrix, zero in zip(matrices, hidden, strict=True):
        assert 0.3 < zero.float().mean() < 0.7
        assert not matrix.grad[zero].any()
        assert matrix.grad[~zero].any()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("cell", "options", "matrices"),
    [("slstm", {"heads": 2}, 2 * 2), ("m2rnn", {"heads": 2}, 2 * 2), ("mogrifier", {"rounds": 3, "rank": 4}, 2 * 5)],
)
def test_weight_drop_finds_the_matrices_of_a_state_whatever_their_names(
    cell: str, options: dict[str, int], matrices: int
) -> None:
    """Of two layers: one a head; of the mogrifier U and both factors of each Q."""
    model = build("mine", model_config(cell, hidden_size=12, weight_drop=0.5, **options), 9)
    assert len(model.recurrence.recurrent_matrices()) == matrices


def test_weight_drop_of_a_cell_without_such_matrices_is_refused() -> None:
    expected = (
        r"^params.yaml: 'variants.mine.weight_drop' is 0.5, and no matrix of mingru multiplies its state: set it to 0$"
    )
    with pytest.raises(InputError, match=expected):
        build("mine", model_config("mingru", weight_drop=0.5), 9)


def test_the_gradient_under_weight_drop_is_that_of_a_product_with_the_mask() -> None:
    torch.manual_seed(1)
    matrix, x = nn.Parameter(torch.randn(5, 4)), torch.randn(3, 4)
    with weight_drop([matrix], 0.4):
        mask = matrix.detach() != 0
        (x @ matrix.T).pow(2).sum().backward()
    same = matrix.detach().clone().requires_grad_()
    (x @ (same * mask / 0.6).T).pow(2).sum().backward()
    torch.testing.assert_close(matrix.grad, same.grad)


def test_nothing_is_left_hidden_after_an_error() -> None:
    matrix = nn.Parameter(torch.ones(50, 50))
    with pytest.raises(RuntimeError), weight_drop([matrix], 0.5):
        raise RuntimeError
    assert bool((matrix == 1).all())


@given(st.floats(0.1, 0.9), st.integers(1, 5), st.integers(1, 9))
def test_locked_dropout_hides_the_same_features_at_every_step_of_a_row(share: float, batch: int, time: int) -> None:
    dropout = LockedDropout(share)
    x = torch.ones(batch, time, 400)
    y = dropout(x)
    assert torch.equal(y, y[:, :1].expand_as(y))
    values = y.unique()
    assert all(value == 0 or value == pytest.approx(1 / (1 - share), rel=1e-5) for value in values.tolist())
    assert abs((y == 0).float().mean() - share) < 0.12
    if batch > 1:
        assert not torch.equal(y[0], y[1])
    assert dropout.eval()(x) is x
    assert LockedDropout(0.0)(x) is x


def test_embed_dropout_hides_a_token_wherever_it_stands_as_an_input_and_never_as_an_output() -> None:
    torch.manual_seed(1)
    model = build("gru", model_config("gru", hidden_size=6, concat_layers=False, embed_dropout=0.5), 40)
    tokens = torch.arange(40).repeat(3, 2)
    rows = model.embed(tokens)
    zero = (rows == 0).all(-1)
    assert 20 < zero.sum() / 3 < 60
    assert torch.equal(zero[:, :40], zero[:, 40:])
    assert bool((zero == zero[:1]).all())
    torch.testing.assert_close(rows[~zero], 2 * model.eval().embed(tokens)[~zero])
    assert model.decoder.weight.any(dim=1).all()


def test_the_penalties_are_those_of_the_paper() -> None:
    y = torch.tensor([[[1.0, 2.0], [3.0, 2.0], [3.0, 5.0]]])
    dropped = 2 * y
    assert float(activation_penalty(y, dropped, 0.5, 0.0)) == pytest.approx(0.5 * 4 * (1 + 4 + 9 + 4 + 9 + 25) / 6)
    assert float(activation_penalty(y, dropped, 0.0, 3.0)) == pytest.approx(3 * (4 + 0 + 0 + 9) / 4)
    assert activation_penalty(y, dropped, 0.0, 0.0) == 0
    assert float(activation_penalty(y[:, :1], dropped, 0.0, 3.0)) == 0


def test_each_kind_of_dropout_has_its_place_and_follows_the_common_one_unless_it_is_set() -> None:
    common = build("lstm", model_config(dropout=0.3), 9)
    assert (common.input_dropout.p, common.recurrence.dropout.p, common.output_dropout.p) == (0.3,) * 3
    own = build("lstm", model_config(dropout=0.3, input_dropout=0.0, output_dropout=0.5), 9)
    assert (own.input_dropout.p, own.recurrence.dropout.p, own.output_dropout.p) == (0.0, 0.3, 0.5)
