"""Further cells against their papers: each recurrence once more in numpy, in the paper's notation, one head at a time.

The states are zero at first, weights are random, and nothing is shared with `step`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from recurlm.variants import REGISTRY

INPUT, HIDDEN, HEADS, TIME = 3, 8, 2, 7
KEY, VALUE = 3, HIDDEN // HEADS
Array = np.ndarray


class Weights:
    """A cell's parameters as arrays: `w.Wq` is a matrix, or the product of two; `w.heads("A")` a row a head."""

    def __init__(self, cell: torch.nn.Module) -> None:
        self.cell = cell

    def __getattr__(self, name: str) -> Array:
        part = self.cell
        for piece in name.split("__"):
            part = getattr(part, piece)
        if isinstance(part, torch.nn.Sequential):
            factors = [layer.weight.detach().numpy() for layer in part]
            return np.linalg.multi_dot(factors[::-1]) if len(factors) > 1 else factors[0]
        if isinstance(part, torch.nn.Linear):
            return part.weight.detach().numpy()
        return part.detach().numpy()

    def blocks(self, name: str) -> list[Array]:
        """The blocks of a block-diagonal matrix."""
        return [block.detach().numpy() for block in getattr(self.cell, name).blocks]

    def heads(self, name: str) -> Array:
        """One matrix, or one vector, for each head."""
        whole = getattr(self, name)
        return whole.reshape(HEADS, -1, *whole.shape[1:])


def σ(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


def silu(a: Array) -> Array:
    return a * σ(a)


def softplus(a: Array) -> Array:
    return np.log1p(np.exp(a))


def unit(a: Array) -> Array:
    return a / np.sqrt(a @ a + 1e-6)


def rms(a: Array) -> Array:
    return a / np.sqrt(np.mean(a * a) + 1e-6)


def mingru(w: Weights, xs: Array) -> Iterator[Array]:
    h = np.zeros(HIDDEN)
    for x in xs:
        z, u = σ(w.Wz @ x + w.Wz__bias), w.Wh @ x + w.Wh__bias
        h = (1 - z) * h + z * np.where(u >= 0, u + 0.5, σ(u))
        yield h


def minlstm(w: Weights, xs: Array) -> Iterator[Array]:
    h = np.zeros(HIDDEN)
    for x in xs:
        f, i, u = σ(w.Wf @ x + w.Wf__bias), σ(w.Wi @ x + w.Wi__bias), w.Wh @ x + w.Wh__bias
        h = f / (f + i) * h + i / (f + i) * np.where(u >= 0, u + 0.5, σ(u))
        yield h


def lru(w: Weights, xs: Array) -> Iterator[Array]:
    λ = np.exp(-np.exp(w.nu) + 1j * np.exp(w.theta))
    B, C = w.B_re + 1j * w.B_im, w.C_re + 1j * w.C_im
    h = np.zeros(HIDDEN, complex)
    for x in xs:
        h = λ * h + np.exp(w.gamma) * (B @ x)
        yield (C @ h).real + w.D @ x


def rglru(w: Weights, xs: Array) -> Iterator[Array]:
    h = np.zeros(HIDDEN)
    for x in xs:
        u = w.Wu @ x
        parts = u.reshape(HEADS, -1)
        r, i = (
            σ(np.concatenate([block @ part for part, block in zip(parts, w.blocks(W), strict=True)]) + b)
            for W, b in (("Wr", w.br), ("Wi", w.bi))
        )
        a = σ(-w.L) ** (8 * r)  # the paper's a = σ(Λ), whose Λ is −Λ here: exp(−softplus(Λ))
        h = a * h + np.sqrt(1 - a**2) * (i * u)
        yield h * silu(w.Wg @ x)


def hgrn(w: Weights, xs: Array) -> Iterator[Array]:
    h, γ = np.zeros(HIDDEN), σ(w.floor)
    for x in xs:
        f = γ + (1 - γ) * σ(w.Wf @ x + w.Wf__bias)
        h = f * h + (1 - f) * silu(w.Wi @ x + w.Wi__bias)
        yield h * silu(w.Wg @ x + w.Wg__bias)


def sru(w: Weights, xs: Array) -> Iterator[Array]:
    c = np.zeros(HIDDEN)
    (W, Wf, Wr), (b, bf, br) = np.split(w.W, 3), np.split(w.W__bias, 3)
    for x in xs:
        f, r = σ(Wf @ x + w.vf * c + bf), σ(Wr @ x + w.vr * c + br)
        c = f * c + (1 - f) * (W @ x + b)
        yield r * c + (1 - r) * (w.highway @ x)


def slstm(w: Weights, xs: Array) -> Iterator[Array]:
    """Without the stabilizer: exponentials as they stand."""
    W, b = w.heads("W"), w.heads("W__bias")
    h, c, n = (np.zeros((HEADS, VALUE)) for _ in range(3))
    for x in xs:
        for head in range(HEADS):
            i, f, z, o = np.split(W[head] @ x + b[head] + w.blocks("R")[head] @ h[head], 4)
            c[head] = σ(f) * c[head] + np.exp(i) * np.tanh(z)
            n[head] = σ(f) * n[head] + np.exp(i)
            h[head] = σ(o) * c[head] / n[head]
        yield h.ravel().copy()


def paragru(w: Weights, xs: Array) -> Iterator[Array]:
    h = np.zeros(HIDDEN)
    (Bz, Br, Bh), (bz, br, bh) = np.split(w.B, 3), np.split(w.B__bias, 3)
    for x in xs:
        z, r = σ(w.az * h + Bz @ x + bz), σ(w.ar * h + Br @ x + br)
        h = (1 - z) * h + z * np.tanh(w.ah * (h * r) + Bh @ x + bh)
        yield h


def retnet(w: Weights, xs: Array) -> Iterator[Array]:
    """The parallel form of the paper: a sum over all elements before, rotated by how far they are away."""
    θ = 10000.0 ** -np.linspace(0, 1, KEY // 2)
    pairs = KEY // 2
    for n, x in enumerate(xs):
        outputs = []
        for head in range(HEADS):
            γ, o = 1 - 2.0 ** (-5 - head), np.zeros(VALUE)
            q = w.heads("Wq")[head] @ x
            for m in range(n + 1):
                k, v = w.heads("Wk")[head] @ xs[m] * KEY**-0.5, w.heads("Wv")[head] @ xs[m]
                qc, kc = (part[:pairs] + 1j * part[pairs : 2 * pairs] for part in (q, k))
                score = (qc * np.exp(1j * θ * (n - m)) * kc.conj()).real.sum() + q[2 * pairs :] @ k[2 * pairs :]
                o = o + γ ** (n - m) * score * v
            outputs.append(rms(o))
        yield np.concatenate(outputs) * w.norm__weight * silu(w.Wg @ x)


def matrix(w: Weights, xs: Array, head_of: Callable[[Weights, int, Array, Array], tuple[Array, Array]]) -> list[Array]:
    """Each head's outputs, one after another; `head_of` gives a head's next state [value, key] and what is read."""
    S, rows = np.zeros((HEADS, VALUE, KEY)), []
    for x in xs:
        outputs = []
        for head in range(HEADS):
            S[head], o = head_of(w, head, S[head], x)
            outputs.append(o)
        rows.append(np.concatenate(outputs))
    return rows


def gla(w: Weights, xs: Array) -> Iterator[Array]:
    def head_of(w: Weights, head: int, S: Array, x: Array) -> tuple[Array, Array]:
        α = σ(w.heads("Wa")[head] @ x + w.heads("b")[head]) ** (1 / 16)
        S = S * α + np.outer(w.heads("Wv")[head] @ x, w.heads("Wk")[head] @ x)
        return S, rms(S @ (w.heads("Wq")[head] @ x) / np.sqrt(KEY))

    for o, x in zip(matrix(w, xs, head_of), xs, strict=True):
        yield o * w.norm__weight * silu(w.Wr @ x)


def mamba2(w: Weights, xs: Array) -> Iterator[Array]:
    def head_of(w: Weights, head: int, h: Array, x: Array) -> tuple[Array, Array]:
        Δ = softplus(w.Wdt[head] @ x + w.dt_bias[head])
        v = w.heads("Wx")[head] @ x
        h = np.exp(-np.exp(w.A_log[head]) * Δ) * h + Δ * np.outer(v, w.WB @ x)
        return h, rms((h @ (w.WC @ x) + w.D[head] * v) * silu(w.heads("Wz")[head] @ x))

    for o in matrix(w, xs, head_of):
        yield o * w.norm__weight


def gated_deltanet(w: Weights, xs: Array) -> Iterator[Array]:
    def head_of(w: Weights, head: int, S: Array, x: Array) -> tuple[Array, Array]:
        q, k, v = (silu(w.heads(name)[head] @ x) for name in ("Wq", "Wk", "Wv"))
        q, k, β = unit(q) / np.sqrt(KEY), unit(k), σ(w.Wb[head] @ x)
        α = np.exp(-np.exp(w.decay__A[head]) * softplus(w.decay__product[head] @ x + w.decay__b[head]))
        S = S @ (α * (np.eye(KEY) - β * np.outer(k, k))) + β * np.outer(v, k)
        return S, rms(S @ q)

    for o, x in zip(matrix(w, xs, head_of), xs, strict=True):
        yield o * w.norm__weight * silu(w.Wg @ x)


def deltaproduct(w: Weights, xs: Array) -> Iterator[Array]:
    def head_of(w: Weights, head: int, S: Array, x: Array) -> tuple[Array, Array]:
        q = unit(silu(w.heads("Wq")[head] @ x)) / np.sqrt(KEY)
        S = S * np.exp(-np.exp(w.decay__A[head]) * softplus(w.decay__product[head] @ x + w.decay__b[head]))
        for step in range(2):
            at = step * HEADS + head
            k = unit(silu(w.Wk.reshape(2 * HEADS, KEY, INPUT)[at] @ x))
            v, β = silu(w.Wv.reshape(2 * HEADS, VALUE, INPUT)[at] @ x), 2 * σ(w.Wb[at] @ x)
            S = S @ (np.eye(KEY) - β * np.outer(k, k)) + β * np.outer(v, k)
        return S, rms(S @ q)

    for o, x in zip(matrix(w, xs, head_of), xs, strict=True):
        yield o * w.norm__weight * silu(w.Wg @ x)


def kda(w: Weights, xs: Array) -> Iterator[Array]:
    def head_of(w: Weights, head: int, S: Array, x: Array) -> tuple[Array, Array]:
        q, k, v = (silu(w.heads(name)[head] @ x) for name in ("Wq", "Wk", "Wv"))
        q, k, β = unit(q) / np.sqrt(KEY), unit(k), σ(w.Wb[head] @ x)
        f = softplus(w.heads("decay__product")[head] @ x + w.heads("decay__b")[head])
        α = np.exp(np.maximum(-np.exp(w.decay__A[head]) * f, -5))
        S = S @ np.diag(α) @ (np.eye(KEY) - β * np.outer(k, k)) + β * np.outer(v, k)
        return S, rms(S @ q)

    for o, x in zip(matrix(w, xs, head_of), xs, strict=True):
        yield o * w.norm__weight * σ(w.Wg @ x)


def mlstm(w: Weights, xs: Array) -> Iterator[Array]:
    """With the paper's stabilizer m, which `step` leaves out."""
    C, n, m = np.zeros((HEADS, VALUE, KEY)), np.zeros((HEADS, KEY)), np.full(HEADS, -np.inf)
    for x in xs:
        outputs = []
        for head in range(HEADS):
            q, k, v = (w.heads(name)[head] @ x for name in ("Wq", "Wk", "Wv"))
            k = k / np.sqrt(KEY)
            i, f = (15 * np.tanh((W[head] @ x + b[head]) / 15) for W, b in ((w.Wi, w.Wi__bias), (w.Wf, w.Wf__bias)))
            before, m[head] = m[head], max(np.log(σ(f)) + m[head], i)
            f, i = np.exp(np.log(σ(f)) + before - m[head]), np.exp(i - m[head])
            C[head] = f * C[head] + i * np.outer(v, k)
            n[head] = f * n[head] + i * k
            outputs.append(rms(C[head] @ q / max(abs(n[head] @ q), np.exp(-m[head]))))
        yield σ(w.Wo @ x) * np.concatenate(outputs) * w.norm__weight


def rwkv7(w: Weights, xs: Array) -> Iterator[Array]:
    S, last = np.zeros((HEADS, VALUE, VALUE)), np.zeros(INPUT)
    for x in xs:
        r, w_, k, v, a, g = (x + (last - x) * w.cell.mu[name].detach().numpy() for name in "rwkvag")
        last = x
        r, k, v = w.Wr @ r, w.Wk @ k, w.Wv @ v
        decay = np.exp(-0.606531 * σ(w.w0 + w.Ww2 @ np.tanh(w.Ww1 @ w_)))
        a, g = σ(w.a0 + w.Wa @ a), w.Wg2 @ σ(w.Wg1 @ g)
        κ, k = k * w.kappa, k * (1 + (a - 1) * w.alpha)
        outputs, bonus = [], []
        for head, (d, a_, κ_, k_, v_, r_, ρ) in enumerate(
            zip(*(part.reshape(HEADS, -1) for part in (decay, a, κ, k, v, r, w.rho)), strict=True)
        ):
            κ_ = unit(κ_)
            S[head] = S[head] * d - np.outer(S[head] @ κ_, κ_ * a_) + np.outer(v_, k_)
            outputs.append(rms(S[head] @ r_))
            bonus.append((r_ @ (k_ * ρ)) * v_)
        yield (np.concatenate(outputs) * w.norm__weight + np.concatenate(bonus)) * g


def mamba3(w: Weights, xs: Array) -> Iterator[Array]:
    h, k0, v0, θ = np.zeros((HEADS, VALUE, KEY)), np.zeros((HEADS, KEY)), np.zeros((HEADS, VALUE)), np.zeros(HEADS)

    def turned(a: Array, θ: float) -> Array:
        return np.array([[np.cos(θ), -np.sin(θ), 0], [np.sin(θ), np.cos(θ), 0], [0, 0, 1]]) @ a  # one pair of three

    for x in xs:
        outputs = []
        for head in range(HEADS):
            Δ = softplus(w.Wdt[head] @ x + w.dt_bias[head])
            α = np.exp(-Δ * max(softplus(w.WA[head] @ x), 1e-4))
            λ = σ(w.Wlambda[head] @ x)
            θ[head] += Δ * np.pi * np.tanh(w.Wtheta[0] @ x)
            q = turned(rms(w.WC @ x) + w.heads("bC")[head], θ[head])
            k = turned(rms(w.WB @ x) + w.heads("bB")[head], θ[head])
            v = w.heads("Wx")[head] @ x
            h[head] = α * h[head] + (1 - λ) * Δ * α * np.outer(v0[head], k0[head]) + λ * Δ * np.outer(v, k)
            k0[head], v0[head] = k, v
            outputs.append(h[head] @ q + w.D[head] * v)
        yield np.concatenate(outputs) * silu(w.Wz @ x)


def m2rnn(w: Weights, xs: Array) -> Iterator[Array]:
    H = np.zeros((HEADS, KEY, VALUE))
    for x in xs:
        q, k = silu(w.Wq @ x), silu(w.Wk @ x) / np.sqrt(KEY)
        outputs = []
        for head in range(HEADS):
            v = silu(w.heads("Wv")[head] @ x)
            f = np.exp(-np.exp(w.decay__A[head]) * softplus(w.decay__product[head] @ x + w.decay__b[head]))
            H[head] = f * H[head] + (1 - f) * np.tanh(H[head] @ w.blocks("W")[head].T + np.outer(k, v))
            outputs.append(rms(H[head].T @ q + w.D[head] * v))
        yield np.concatenate(outputs) * w.norm__weight * silu(w.Wg @ x)


def transformer(w: Weights, xs: Array) -> Iterator[Array]:
    """Positions from the text's begin; the window is longer than the text."""
    pairs = VALUE // 2
    θ = 10000.0 ** -(np.arange(pairs) / pairs)

    def rotated(a: Array, position: int) -> Array:
        turned = (a[:pairs] + 1j * a[pairs : 2 * pairs]) * np.exp(1j * position * θ)
        return np.concatenate([turned.real, turned.imag])

    for t, x in enumerate(xs):
        outputs = []
        for head in range(HEADS):
            Wq, Wk, Wv = (w.heads(name)[head] for name in ("Wq", "Wk", "Wv"))
            q = rotated(Wq @ x, t)
            scores = np.array([q @ rotated(Wk @ xs[s], s) / np.sqrt(VALUE) for s in range(t + 1)])
            p = np.exp(scores) / np.exp(scores).sum()
            outputs.append(sum(p[s] * (Wv @ xs[s]) for s in range(t + 1)))
        yield np.concatenate(outputs)


PAPERS = [
    mingru, minlstm, lru, rglru, hgrn, sru, slstm, paragru,
    retnet, gla, mamba2, gated_deltanet, deltaproduct, kda, mlstm, rwkv7, mamba3, m2rnn, transformer,
]  # fmt: skip


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.__name__)
def test_forward_is_the_paper_s_recurrence(paper: Callable[[Weights, Array], Iterator[Array]]) -> None:
    cell_class = REGISTRY[paper.__name__]
    torch.manual_seed(1)
    names = cell_class.__init__.__annotations__
    own = {key: value for key, value in {"heads": HEADS, "key_size": KEY}.items() if key in names}
    cell = cell_class(INPUT, HIDDEN, **own).double()
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    xs = np.random.default_rng(2).normal(size=(TIME, INPUT))
    y, _ = cell(torch.from_numpy(xs)[None], cell.initial_state(1))
    np.testing.assert_allclose(y[0].detach().numpy(), np.stack(list(paper(Weights(cell), xs))), rtol=1e-7, atol=1e-9)
