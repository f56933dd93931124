"""Promises of the training loop and of one step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from configs import PARAMS, model_config, train_config
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recurlm.config import TrainConfig, override
from recurlm.errors import InputError
from recurlm.evaluation.perplexity import score_windows
from recurlm.evaluation.windows import split_windows
from recurlm.model import LanguageModel, build
from recurlm.objective import objective_of
from recurlm.training.batches import BatchIterator, Stream
from recurlm.training.loop import eval_due, resets_at, train, train_step
from recurlm.training.optimizer import optimizers
from recurlm.training.regularization import WeightAverage
from recurlm.training.state import LogPoint, TrainResult, TrainState

BOS, MASK, VOCABULARY = 0, 1, 12
SPECIAL = {"bos": BOS, "mask": MASK}
SHORT = {
    "data.epochs": 2,
    "data.batch_size": 4,
    "data.sequence_length": 8,
    "evaluation.num_evals": 3,
    "precision": "fp32",
    "optimizer.momentum": 0.95,
    "optimizer.orthogonalize_every": 1,
    "optimizer.weight_decay": 0.1,
}


def settings(**changes: Any) -> TrainConfig:
    return train_config(**(SHORT | changes))


def counting(length: int = 800) -> np.ndarray:
    """A text with a rule: 2 3 4 … 11 2 3 …"""
    return (np.arange(length) % 10 + 2).astype(np.uint16)


def fresh(name: str = "lstm", **changes: Any) -> LanguageModel:
    torch.manual_seed(1)
    sizes = {"embedding_size": 8, "hidden_size": 16, "layers": 1}
    return build(name, model_config(name, **(sizes | changes)), VOCABULARY)


def run(
    model: LanguageModel, config: TrainConfig, rates: tuple[float, float] = (0.02, 0.02), evaluate=None, **more: Any
) -> TrainResult:
    stream = Stream(counting(), config.data.batch_size, config.data.sequence_length)
    rates_of = model_config(muon_lr=rates[0], adamw_lr=rates[1])
    return train(model, stream, SPECIAL, config, rates_of, evaluate or (lambda model: 0.0), **more)


@pytest.mark.parametrize("name", [*PARAMS.variants, "bigru"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_every_variant_learns_a_rule(name: str, optimizer: str) -> None:
    trained = run(fresh(name), settings(**{"optimizer.name": optimizer, "data.epochs": 8, "evaluation.num_evals": 8}))
    losses = [point.train_loss for point in trained.curve]
    assert losses[0] > 1.2
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize("name", ["rnn", "bilstm"])
def test_the_same_seed_gives_the_same_weights_and_curve(name: str) -> None:
    config = settings()
    runs = []
    for _ in range(2):
        model = fresh(name, dropout=0.3, layers=2)
        trained = run(model, config, evaluate=lambda model: model.decoder.bias.detach().sum().item())
        runs.append((trained.curve, {key: value.clone() for key, value in model.state_dict().items()}))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(value, runs[1][1][key]) for key, value in runs[0][1].items())


def test_the_weights_that_were_best_on_validation_are_kept() -> None:
    seen: list[dict[str, Tensor]] = []
    losses = iter([3.0, 1.0, 2.0])

    def evaluate(model: LanguageModel) -> float:
        seen.append({key: value.clone() for key, value in model.state_dict().items()})
        return next(losses)

    model = fresh()
    trained = run(model, settings(), evaluate=evaluate)
    assert trained.best == trained.curve[1]
    kept = model.state_dict()
    assert all(torch.equal(kept[key], value) for key, value in seen[1].items())
    assert not torch.equal(kept["decoder.bias"], seen[2]["decoder.bias"])


@pytest.mark.parametrize("name", ["gru", "bilstm"])
@pytest.mark.parametrize("average", ["none", "ema"])
def test_a_log_with_a_sample_of_the_validation_split_changes_no_weight(name: str, average: str) -> None:
    """50 steps: a row every second one, and the sample is scored at every tenth."""
    config = settings(**{"log.points": 25, "log.evals": 5, "regularization.average": average})
    ids = np.concatenate([[BOS], counting(300)])
    windows = split_windows(np.array([0, 301]), 16, 4, both_sides=name == "bilstm").sample(64)
    rows: list[LogPoint] = []

    def evaluate_sample(model: LanguageModel) -> float:
        nats, tokens = score_windows(model, ids, windows, 8)
        return nats / tokens

    def trained(config: TrainConfig, **more: Any) -> tuple[dict[str, Tensor], TrainResult]:
        model = fresh(name, dropout=0.3, layers=2)
        losses = iter([3.0, 1.0, 2.0])
        result = run(model, config, evaluate=lambda model: next(losses), **more)
        return model.state_dict(), result

    plain, without = trained(override(config, {"log.points": 1}))
    steps: list[float] = []
    weights, result = trained(
        config,
        evaluate_sample=evaluate_sample,
        on_log=rows.append,
        on_step=lambda step, tokens, loss: steps.append(loss),
    )
    assert all(torch.equal(weights[key], value) for key, value in plain.items())
    assert result.curve == without.curve
    assert result.log == rows
    assert [row.step for row in rows] == list(range(2, 51, 2))
    assert [row.train_loss for row in rows] == pytest.approx(np.array(steps).reshape(25, 2).mean(axis=1))
    sampled = [row.step for row in rows if row.validation_loss is not None]
    assert sampled == [10, 20, 30, 40, 50]
    assert rows[-1].validation_loss != rows[4].validation_loss
    assert all(row.validation_loss is None for row in without.log)


def test_the_state_is_carried_from_window_to_window_and_cut_off_from_its_graph() -> None:
    """Reading in windows of 8 with carried state is reading the whole text at once."""
    model = fresh().eval()
    stream = Stream(counting(), 4, 8)
    state, parts = model.initial_state(4), []
    for window in stream:
        logits, after = model(window[:, :-1], state)
        state = objective_of(model).detach_state(model, after)
        assert not any(value.requires_grad for value in state.values())
        parts.append(logits)
    whole, _ = model(torch.cat([window[:, :-1] for window in stream], dim=1), model.initial_state(4))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


def test_a_cloze_model_carries_its_left_state_and_starts_anew_from_the_right() -> None:
    model = fresh("bilstm")
    _, after = model(torch.full((2, 5), 3), model.initial_state(2))
    carried = objective_of(model).detach_state(model, after)
    assert all(value.any() for name, value in carried.items() if name.startswith("left."))
    assert not any(value.any() for name, value in carried.items() if name.startswith("right."))


def test_a_run_that_diverges_stops_with_one_line() -> None:
    model = fresh("rnn", nonlinearity="relu")
    with torch.no_grad():
        model.decoder.bias.fill_(float("nan"))
    with pytest.raises(InputError, match=r"diverged at step 1: lower the variant's muon_lr and adamw_lr"):
        run(model, settings())


@given(st.integers(1, 200), st.integers(1, 12))
def test_evaluations_are_spread_evenly_and_the_last_step_is_one(steps: int, num_evals: int) -> None:
    found: list[int] = []
    for step in range(1, steps + 1):
        if eval_due(num_evals, len(found), step / steps):
            found.append(step)
    assert found[-1] == steps
    assert len(found) == min(steps, num_evals)
    gaps = np.diff([0, *found])
    assert gaps.max() - gaps.min() <= 1


def test_bf16_trains_where_the_machine_has_it_and_is_refused_where_not() -> None:
    config = settings(**{"precision": "bf16", "data.epochs": 4})
    if torch.cpu._is_avx512_bf16_supported():
        trained = run(fresh(), config)
        assert trained.precision == "bf16"
        assert trained.curve[-1].train_loss < trained.curve[0].train_loss
    else:
        with pytest.raises(InputError, match="bf16"):
            run(fresh(), config)


def state_of(model: LanguageModel, config: TrainConfig, ids: np.ndarray) -> TrainState:
    stream = Stream(ids, config.data.batch_size, config.data.sequence_length)
    return TrainState(
        model,
        optimizers(model, config.optimizer, 0.01, 0.01),
        WeightAverage(model, config.regularization),
        BatchIterator(stream),
        TrainResult(),
    )


@pytest.mark.parametrize("name", [*PARAMS.variants, "lstm_blocks"])
def test_a_step_with_resets_has_the_loss_and_the_gradients_of_windows_cut_at_documents(name: str) -> None:
    """Every document of the window read by itself from a zero state gives the same."""
    blocks = {"block": "residual", "conv": 3, "mlp_ratio": 1.0}
    model = fresh("lstm", **blocks) if name == "lstm_blocks" else fresh(name, layers=2)
    objective = objective_of(model)
    inputs = torch.randint(2, VOCABULARY, (4, 12))
    starts = [[0, 5], [0, 3, 7], [0], [0, 11]]
    for row, places in enumerate(starts):
        inputs[row, places] = BOS
    targets = torch.randint(2, VOCABULARY, (4, 12))

    def nats(tokens: Tensor, wanted: Tensor, reset: Tensor | None) -> Tensor:
        logits, _ = model(tokens, model.initial_state(len(tokens)), reset)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum")

    whole = nats(inputs, targets, resets_at(inputs, BOS))
    parts = sum(
        nats(inputs[row : row + 1, begin:end], targets[row : row + 1, begin:end], None)
        for row, places in enumerate(starts)
        for begin, end in zip(places, [*places[1:], 12], strict=True)
    )
    torch.testing.assert_close(whole, parts)
    both = [torch.autograd.grad(loss, list(model.parameters())) for loss in (whole, parts)]
    for found, expected in zip(*both, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert objective.name in {"causal", "cloze"}


def test_no_document_begins_no_reset_is_passed() -> None:
    assert resets_at(torch.full((2, 3), 5), BOS) is None
    assert resets_at(torch.tensor([[5, BOS]]), BOS).tolist() == [[False, True]]


def test_a_row_loses_its_whole_state_with_the_probability_of_params() -> None:
    """With `state_reset_prob` 1, nothing that was read before matters to a step."""
    ids = np.full(4000, 5, np.uint16)
    for prob, differs in ((0.0, True), (1.0, False)):
        losses = []
        for scale in (0.0, 3.0):
            model, config = fresh(), settings(**{"data.state_reset_prob": prob})
            state = state_of(model, config, ids)
            state.batches.advance()  # in the middle of an epoch, with a state of before
            state.recurrent = {name: torch.full_like(v, scale) for name, v in model.initial_state(4).items()}
            losses.append(train_step(state, state.batches.peek(), SPECIAL, config, 0.0))
        assert (losses[0] != losses[1]) == differs


@pytest.mark.parametrize("penalty", ["ar", "tar"])
def test_a_penalty_moves_the_weights_and_is_no_part_of_the_loss_that_is_reported(penalty: str) -> None:
    losses, weights = [], []
    for value in (0.0, 5.0):
        model, config = fresh(), settings(**{f"regularization.{penalty}": value})
        torch.manual_seed(2)
        state = state_of(model, config, counting())
        losses.append(train_step(state, state.batches.peek(), SPECIAL, config, 0.0))
        weights.append(model.recurrence.recurrent_matrices()[0].detach().clone())
    assert losses[0] == losses[1]
    assert not torch.equal(*weights)
