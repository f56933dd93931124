"""How fresh weights are drawn: no test of a forward pass, which takes the weights as they are, would notice."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from configs import model_config
from torch import Tensor
from torch.nn import functional as F

from recurlm.model import build
from recurlm.variants import REGISTRY
from recurlm.variants.linear import Decay

INPUT, HIDDEN = 48, 64


@pytest.mark.parametrize(
    ("cell", "options", "gates", "gain"),
    [
        ("rnn", {}, 1, 1.0),
        ("gru", {}, 3, 0.5),
        ("lstm", {}, 4, 0.5),
        ("lstm", {"peepholes": True}, 4, 0.5),
        ("lstm", {"cifg": True}, 3, 0.5),
    ],
)
def test_states_keep_their_norm_and_inputs_get_the_gain(
    cell: str, options: dict[str, Any], gates: int, gain: float
) -> None:
    torch.manual_seed(1)
    W, U, *biases = (parameter.detach() for parameter in REGISTRY[cell](INPUT, HIDDEN, **options).parameters())
    assert len(W) == len(U) == gates * HIDDEN
    for block in U.split(HIDDEN):
        torch.testing.assert_close(block @ block.T, torch.eye(HIDDEN), atol=1e-5, rtol=0)
    assert_uniform(W, gain * math.sqrt(3 / INPUT))
    assert all(not bias.any() for bias in biases)


def assert_uniform(weights: Tensor, bound: float) -> None:
    """Check that numbers lie evenly between −bound and bound."""
    assert float(weights.abs().max()) == pytest.approx(bound, rel=0.01)
    assert float(weights.abs().max()) <= bound
    assert float(weights.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert abs(float(weights.mean())) < 0.05 * bound


def fresh(cell: str, **options: Any) -> Any:
    torch.manual_seed(1)
    return REGISTRY[cell](INPUT, 512, **options)


def assert_evenly(values: Tensor, low: float, high: float) -> None:
    """Check that numbers lie evenly between two."""
    values = values.detach()
    assert low <= float(values.min()) < low + 0.02 * (high - low)
    assert high - 0.02 * (high - low) < float(values.max()) <= high
    assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.05 * (high - low))


def assert_step_sizes(biases: Tensor) -> None:
    """Check that softplus makes step sizes of them, evenly between 0.001 and 0.1 on a logarithmic scale."""
    assert_evenly(torch.log10(F.softplus(biases.detach().double())), -3 - 1e-4, -1 + 1e-4)


def test_lru_begins_on_a_ring_and_its_inputs_are_scaled_to_keep_the_variance() -> None:
    cell = fresh("lru")
    re, im = cell._eigenvalues()
    radius = torch.sqrt(re**2 + im**2)
    assert_evenly(radius**2, 0.9**2 - 1e-6, 0.999**2 + 1e-6)
    assert_evenly(torch.atan2(im, re), 0, math.pi / 10 + 2e-4)
    torch.testing.assert_close(torch.exp(cell.gamma) ** 2, 1 - radius**2, atol=1e-6, rtol=1e-4)


def test_rglru_begins_with_decays_to_the_power_of_c() -> None:
    decay = torch.exp(-F.softplus(fresh("rglru").L.double()))
    assert_evenly(decay**2, 0.9**2 - 1e-6, 0.999**2 + 1e-6)


def test_mamba_s_step_sizes_and_decays_begin_as_published() -> None:
    cell = fresh("mamba2", heads=512)
    assert_step_sizes(cell.dt_bias)
    assert_evenly(torch.exp(cell.A_log), 1, 16)
    assert_step_sizes(fresh("mamba3", heads=256).dt_bias)  # its values have two elements at least


@pytest.mark.parametrize("cell", ["gated_deltanet", "kda", "m2rnn"])
def test_the_decays_of_its_heirs_begin_as_mamba_s(cell: str) -> None:
    (decay,) = (module for module in fresh(cell, heads=256).modules() if isinstance(module, Decay))
    assert_step_sizes(decay.b)
    assert_evenly(torch.exp(decay.A), 1, 16)


def test_retnet_s_heads_keep_from_31_of_32_on_and_turn_ever_slower() -> None:
    cell = fresh("retnet", heads=4)
    assert torch.exp(cell.g).tolist() == pytest.approx([31 / 32, 63 / 64, 127 / 128, 255 / 256])
    assert cell.theta[[0, -1]].tolist() == pytest.approx([1, 1e-4])


def test_the_forget_gates_of_slstm_and_mlstm_begin_as_published() -> None:
    slstm = fresh("slstm", heads=2)
    bias = slstm.W.bias.detach().view(2, 4, 256)
    torch.testing.assert_close(bias[:, 1], (-(-5 + 12 * torch.linspace(0, 1, 256) ** 0.3)).expand(2, -1))
    assert float(torch.sigmoid(bias[:, 1]).median()) < 0.02  # most forget at once, a few remember
    assert not bias[:, [0, 2, 3]].any()
    assert not any(block.any() for block in slstm.R.blocks)
    mlstm = fresh("mlstm", heads=4)
    assert mlstm.Wf.bias.tolist() == [3, 4, 5, 6]
    assert not mlstm.Wf.weight.any()
    assert not mlstm.Wi.weight.any()
    assert float(fresh("mlstm", heads=512).Wi.bias.detach().std()) == pytest.approx(0.1, rel=0.1)


def test_a_network_that_adds_up_what_it_reads_begins_with_a_loss_of_guessing() -> None:
    """By two layers of the default size: the sums of the lower one are summed up by the upper one."""
    torch.manual_seed(1)
    block = model_config("rnn", hidden_size=480, embedding_size=256, nonlinearity="relu", start="identity")
    model = build("rnn", block, 100).eval()
    tokens = torch.randint(100, (4, 49))
    with torch.no_grad():
        logits, _ = model(tokens[:, :-1], model.initial_state(4))
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert float(loss) == pytest.approx(math.log(100), rel=0.1)


def test_a_unit_of_indrnn_beyond_its_bound_comes_back() -> None:
    cell = fresh("indrnn")
    with torch.no_grad():
        cell.u.fill_(1.5)
    y, _ = cell(torch.randn(2, 5, INPUT).abs(), {"h": torch.ones(2, 512)})
    y.sum().backward()
    assert bool((cell.u.grad > 0).any())


def test_other_recurrent_weights_begin_within_their_bounds() -> None:
    assert_evenly(fresh("indrnn").u, 0, 1)
    sru, paragru = fresh("sru"), fresh("paragru")
    assert_uniform(sru.W.weight.detach(), math.sqrt(3 / INPUT))
    for vector in (sru.vf, sru.vr):
        assert_evenly(vector, -math.sqrt(1.5), math.sqrt(1.5))
    for vector in (paragru.az, paragru.ar, paragru.ah):
        assert_evenly(vector, -1, 1)
    assert fresh("rwkv7").w0[[0, -1]].tolist() == [-6, 1]
    assert torch.sigmoid(fresh("hgrn").floor).tolist() == pytest.approx([0.119] * 512, abs=1e-3)
    assert torch.sigmoid(fresh("hgrn2").floor).tolist() == pytest.approx([0.119] * 512, abs=1e-3)
