"""Each cell against its paper's equations, written out once more in numpy, with the gates taken by name."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch

from recurlm.variants.compose import Bidirectional, Stack
from recurlm.variants.gru import GRU
from recurlm.variants.lstm import LSTM
from recurlm.variants.rnn import RNN

INPUT, HIDDEN, TIME = 3, 4, 6
Weights = dict[str, np.ndarray]


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def weights(cell: torch.nn.Module, gates: str) -> Weights:
    """A cell's matrices and biases by gate: W (input), U (recurrent), b and d (their biases)."""
    (layer,) = cell.children()
    tensors = {"W": layer.weight_ih_l0, "U": layer.weight_hh_l0, "b": layer.bias_ih_l0, "d": layer.bias_hh_l0}
    return {
        letter + gate: part.detach().numpy()
        for letter, tensor in tensors.items()
        for gate, part in zip(gates, tensor.chunk(len(gates)), strict=True)
    }


def elman(w: Weights, x: np.ndarray, h: np.ndarray, φ: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    outputs = []
    for t in range(len(x)):
        h = φ(w["Wh"] @ x[t] + w["bh"] + w["Uh"] @ h + w["dh"])
        outputs.append(h)
    return np.stack(outputs)


def cho(w: Weights, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    outputs = []
    for t in range(len(x)):
        r = sigmoid(w["Wr"] @ x[t] + w["br"] + w["Ur"] @ h + w["dr"])
        z = sigmoid(w["Wz"] @ x[t] + w["bz"] + w["Uz"] @ h + w["dz"])
        candidate = np.tanh(w["Wn"] @ x[t] + w["bn"] + r * (w["Un"] @ h + w["dn"]))
        h = z * h + (1 - z) * candidate
        outputs.append(h)
    return np.stack(outputs)


def hochreiter(w: Weights, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> np.ndarray:
    def gate(name: str, t: int, h: np.ndarray) -> np.ndarray:
        return w["W" + name] @ x[t] + w["b" + name] + w["U" + name] @ h + w["d" + name]

    outputs = []
    for t in range(len(x)):
        remember, write, show = (sigmoid(gate(name, t, h)) for name in "fio")
        c = remember * c + write * np.tanh(gate("g", t, h))
        h = show * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(TIME, INPUT))


def random_weights(recurrence: torch.nn.Module) -> None:
    torch.manual_seed(2)
    for parameter in recurrence.parameters():
        torch.nn.init.normal_(parameter, std=0.7)


def outputs(recurrence: torch.nn.Module, x: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
    given = {name: torch.from_numpy(value)[None] for name, value in state.items()}
    y, _ = recurrence(torch.from_numpy(x)[None], given)
    return y[0].detach().numpy()


def random_state(*names: str) -> dict[str, np.ndarray]:
    return dict(zip(names, np.random.default_rng(3).normal(size=(len(names), HIDDEN)), strict=True))


@pytest.mark.parametrize(("nonlinearity", "φ"), [("tanh", np.tanh), ("relu", lambda a: np.maximum(a, 0))])
def test_rnn_is_elman_s(nonlinearity: str, φ: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> None:
    rnn = RNN(INPUT, HIDDEN, nonlinearity=nonlinearity).double()
    random_weights(rnn)
    state = random_state("h")
    np.testing.assert_allclose(outputs(rnn, x, state), elman(weights(rnn, "h"), x, *state.values(), φ), rtol=1e-10)


def test_gru_is_cho_s_with_the_reset_after_the_product(x: np.ndarray) -> None:
    gru = GRU(INPUT, HIDDEN).double()
    random_weights(gru)
    state = random_state("h")
    np.testing.assert_allclose(outputs(gru, x, state), cho(weights(gru, "rzn"), x, *state.values()), rtol=1e-10)


def test_lstm_is_hochreiter_s_with_a_forget_gate(x: np.ndarray) -> None:
    lstm = LSTM(INPUT, HIDDEN).double()
    random_weights(lstm)
    state = random_state("h", "c")
    expected = hochreiter(weights(lstm, "ifgo"), x, *state.values())
    np.testing.assert_allclose(outputs(lstm, x, state), expected, rtol=1e-10)


def test_rnn_may_start_from_the_identity_and_then_adds_up_what_it_reads(x: np.ndarray) -> None:
    torch.manual_seed(2)
    rnn = RNN(INPUT, HIDDEN, nonlinearity="relu", start="identity").double()
    positive = np.abs(x)
    torch.nn.init.uniform_(rnn.rnn.weight_ih_l0)
    expected = np.cumsum(positive @ weights(rnn, "h")["Wh"].T, axis=0)
    np.testing.assert_allclose(outputs(rnn, positive, {"h": np.zeros(HIDDEN)}), expected, rtol=1e-10)


def test_gru_is_cho_s_own_with_the_reset_before_the_product(x: np.ndarray) -> None:
    gru = GRU(INPUT, HIDDEN, reset_after=False).double()
    random_weights(gru)
    (h,) = random_state("h").values()
    w, expected = weights(gru, "rzn"), []
    for t in range(TIME):
        r, z = (sigmoid(w["W" + g] @ x[t] + w["b" + g] + w["U" + g] @ h + w["d" + g]) for g in "rz")
        h = z * h + (1 - z) * np.tanh(w["Wn"] @ x[t] + w["bn"] + w["Un"] @ (r * h) + w["dn"])
        expected.append(h)
    np.testing.assert_allclose(outputs(gru, x, random_state("h")), np.stack(expected), rtol=1e-10)


@pytest.mark.parametrize(("cifg", "peepholes", "projection"), list(product((False, True), (False, True), (0, 3)))[1:])
def test_lstm_s_options_are_those_of_greff_and_sak(cifg: bool, peepholes: bool, projection: int, x: np.ndarray) -> None:
    lstm = LSTM(INPUT, HIDDEN, cifg, peepholes, projection).double()
    random_weights(lstm)
    gates = "fgo" if cifg else "ifgo"
    W, U, b = (dict(zip(gates, part.detach().numpy().reshape(len(gates), HIDDEN, -1), strict=True))
               for part in (lstm.W, lstm.U, lstm.b))  # fmt: skip
    peeped = [part.detach().numpy() for part in lstm.p] or [0.0] * (len(gates) - 1)
    p = dict(zip(gates.replace("g", ""), peeped, strict=True))
    h, c = np.ones(projection or HIDDEN), np.ones(HIDDEN)
    expected = []
    for t in range(TIME):
        a = {gate: W[gate] @ x[t] + U[gate] @ h + b[gate][:, 0] for gate in gates}
        f = sigmoid(a["f"] + p["f"] * c)
        i = 1 - f if cifg else sigmoid(a["i"] + p["i"] * c)
        c = f * c + i * np.tanh(a["g"])
        h = sigmoid(a["o"] + p["o"] * c) * np.tanh(c)
        h = lstm.P.weight.detach().numpy() @ h if projection else h
        expected.append(h)
    state = {"h": np.ones(projection or HIDDEN), "c": np.ones(HIDDEN)}
    np.testing.assert_allclose(outputs(lstm, x, state), np.stack(expected), rtol=1e-10)


def test_bidirectional_joins_the_left_to_t_minus_1_and_the_right_from_t_plus_1(x: np.ndarray) -> None:
    both = Bidirectional(LSTM(INPUT, HIDDEN), LSTM(INPUT, HIDDEN)).double()
    random_weights(both)
    state = random_state(*both.state_spec)
    h_left, c_left, y_left, h_right, c_right, y_right = state.values()
    from_left = hochreiter(weights(both.left, "ifgo"), x, h_left, c_left)
    from_right = hochreiter(weights(both.right, "ifgo"), x[::-1], h_right, c_right)[::-1]
    expected = np.concatenate(
        [np.vstack([y_left, from_left[:-1]]), np.vstack([from_right[1:], y_right])],
        axis=1,
    )
    np.testing.assert_allclose(outputs(both, x, state), expected, rtol=1e-10)


def test_each_layer_reads_the_one_below(x: np.ndarray) -> None:
    below, above = RNN(INPUT, HIDDEN), RNN(HIDDEN, HIDDEN)
    stack = Stack([below, above]).double()
    random_weights(stack)
    state = random_state("layer0.h", "layer1.h")
    y = outputs(below, x, {"h": state["layer0.h"]})
    y = outputs(above, y, {"h": state["layer1.h"]})
    np.testing.assert_allclose(outputs(stack, x, state), y, rtol=1e-10)
