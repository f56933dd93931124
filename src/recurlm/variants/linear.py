"""Linear recurrences: one scan for vector states, one chunked kernel for matrix states, and what their cells share.

A head's state is a matrix S[key, value]. A token is read in one micro step, or in several:

    S ← diag(exp g) S        decay, g ≤ 0: one number a head, or one a key dimension
    S ← S + k (y − Sᵀ e)ᵀ     take away what stands at the erase key e, write y at the write key k
    o = Sᵀ q                 read, after the last micro step of a token

With e = 0 this is gated linear attention and Mamba-2, with e = β k, y = β v the delta rule. `update` and `read` are one
micro step, which `step` of a cell uses; `sequential` is the loop over them, and `chunked` computes the same by products
of matrices over chunks of tokens (Yang et al. 2023, arXiv:2312.06635; 2024, arXiv:2406.06484).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from recurlm.variants.base import EPSILON, Recurrence, Scaled, State, rms_norm

CHUNK = 64  # micro steps in a chunk, where the decay is one number a head
VECTOR_CHUNK = 32  # where it is a vector: exp(−32 · FLOOR / 2) still fits fp32
ERASE_CHUNK = 16  # where something is erased: a system of that size is solved
FLOOR = -5.0  # of a vector decay's logarithm: no key dimension keeps less than exp(−5) in one micro step


class Writes(NamedTuple):
    """What a chunk does to a matrix state. `micro` steps follow one another for each token; only q is one a token."""

    q: Float[Tensor, "batch time heads key"]
    k: Float[Tensor, "batch micro heads key"]
    y: Float[Tensor, "batch micro heads value"]
    g: Float[Tensor, "batch micro heads *decay"]
    e: Any = None
    """Erase keys, of the shape of k; None: nothing is erased."""


def bounded(g: Float[Tensor, "*batch key"]) -> Float[Tensor, "*batch key"]:
    """A vector decay's logarithm, not below FLOOR: the chunked form divides by decays."""
    return g.clamp(min=FLOOR)


def update(
    S: Float[Tensor, "batch heads key value"],
    k: Float[Tensor, "batch heads key"],
    y: Float[Tensor, "batch heads value"],
    g: Float[Tensor, "batch heads *decay"],
    e: Float[Tensor, "batch heads key"] | None = None,
) -> Float[Tensor, "batch heads key value"]:
    """The state after one micro step."""
    S = torch.exp(g)[(...,) + (None,) * (S.ndim - g.ndim)] * S
    if e is not None:
        y = y - read(S, e)
    return S + k[..., :, None] * y[..., None, :]


def read(
    S: Float[Tensor, "batch heads key value"], q: Float[Tensor, "batch heads key"]
) -> Float[Tensor, "batch heads value"]:
    """Sᵀ q."""
    return (S * q[..., :, None]).sum(dim=-2)


def sequential(
    w: Writes, S: Float[Tensor, "batch heads key value"], reset: Bool[Tensor, "batch time"] | None = None
) -> tuple[Float[Tensor, "batch time heads value"], Float[Tensor, "batch heads key value"]]:
    """Read a chunk one micro step after another: what `chunked` has to equal."""
    micro = w.k.shape[1] // w.q.shape[1]
    outputs = []
    for t in range(w.k.shape[1]):
        if reset is not None and t % micro == 0:
            S = S * (~reset[:, t // micro, None, None, None]).to(S)
        S = update(S, w.k[:, t], w.y[:, t], w.g[:, t], None if w.e is None else w.e[:, t])
        if t % micro == micro - 1:
            outputs.append(read(S, w.q[:, t // micro]))
    return torch.stack(outputs, dim=1), S


def chunked(
    w: Writes, S: Float[Tensor, "batch heads key value"], reset: Bool[Tensor, "batch time"] | None = None
) -> tuple[Float[Tensor, "batch time heads value"], Float[Tensor, "batch heads key value"]]:
    """Read a chunk by products of matrices.

    In a chunk, with b the sum of g from its begin and P[i, j] = exp(b[i] − b[j]) for j ≤ i:

        A = strictly lower (e kᵀ ⊙ P),  (I + A) U = y − (e ⊙ exp b) S₀      what is written, net of what is erased
        o = (q ⊙ exp b) S₀ + lower (q kᵀ ⊙ P) U
        S = exp(b[-1]) S₀ + (k ⊙ exp(b[-1] − b))ᵀ U

    Exponents are never positive, so nothing overflows. A reset parts a chunk into segments: pairs of two segments count
    nothing, and S₀ counts for the first alone.
    """
    time = w.q.shape[1]
    micro = w.k.shape[1] // time
    vector = w.g.ndim == w.k.ndim
    longest = ERASE_CHUNK if w.e is not None else VECTOR_CHUNK if vector else CHUNK
    tokens = min(time, max(1, longest // micro))
    count = -(-time // tokens)
    with torch.autocast(S.device.type, enabled=False):
        q = _in_chunks(w.q, count, tokens, S.dtype)
        k, y, g = (_in_chunks(part, count, tokens * micro, S.dtype) for part in (w.k, w.y, w.g))
        inside, begin, end, whole = _segments(reset, time, tokens, count, micro, S.device)
        # In double, since a sum of large numbers loses what is added to it last; those of a vector are bounded.
        g = g if vector else g.double()[..., None]
        # By a product too on a GPU, where torch has no deterministic cumsum of floats.
        b = g.cumsum(3) if reset is None and not g.is_cuda else inside.to(g) @ g
        fade = (torch.exp(b) * begin[..., None]).to(S.dtype)  # of S₀
        until_end = (b[..., -1:, :] - b).masked_fill(~end[..., None], -torch.inf)
        keep = torch.exp(until_end).to(S.dtype)  # of what a step wrote
        total = fade[..., -1, :, None] * whole[..., None, None]  # of S₀ until the end
        bq, fade_q = (part[..., micro - 1 :: micro, :] for part in (b, fade))
        scores = _scores(q, bq, k, b, inside[..., micro - 1 :: micro, :])
        Q, K = q * fade_q, (k * keep).transpose(-1, -2)
        if w.e is None:
            o, S = _without_erasure(S, Q, K, y, scores, total)
        else:
            e = _in_chunks(w.e, count, tokens * micro, S.dtype)
            A = _scores(e, b, k, b, inside.tril(-1))
            solved = _Solve.apply(A, torch.cat([y, e * fade], dim=-1))  # type: ignore[no-untyped-call]
            written, erased = torch.split(solved, [y.shape[-1], k.shape[-1]], dim=-1)
            o, S = _with_erasure(S, Q, K, written, erased, scores, total)
        return o.flatten(2, 3)[:, :, :time].transpose(1, 2), S


def _without_erasure(
    S: Tensor, Q: Tensor, K: Tensor, y: Tensor, scores: Tensor, total: Tensor
) -> tuple[Tensor, Tensor]:
    before, written = [], (K @ y).unbind(2)
    for new, kept in zip(written, total.unbind(2), strict=True):
        before.append(S)
        S = kept * S + new
    return Q @ torch.stack(before, dim=2) + scores @ y, S


def _with_erasure(
    S: Tensor, Q: Tensor, K: Tensor, y: Tensor, erased: Tensor, scores: Tensor, total: Tensor
) -> tuple[Tensor, Tensor]:
    outputs = []
    parts = (Q, K, y, erased, scores, total)
    for q, k, new, old, score, kept in zip(*(part.unbind(2) for part in parts), strict=True):
        U = new - old @ S
        outputs.append(q @ S + score @ U)
        S = kept * S + k @ U
    return torch.stack(outputs, dim=2), S


def _in_chunks(
    x: Float[Tensor, "batch steps heads *size"], count: int, chunk: int, dtype: torch.dtype
) -> Float[Tensor, "batch heads count chunk *size"]:
    """Whole chunks: steps that are missing in the last one write nothing and forget nothing."""
    missing = count * chunk - x.shape[1]
    if missing:
        x = torch.cat([x, x.new_zeros(len(x), missing, *x.shape[2:])], dim=1)
    x = torch.unflatten(x, 1, (count, chunk)).movedim(3, 1)
    return x.to(dtype, memory_format=torch.contiguous_format).contiguous()


def _scores(q: Tensor, bq: Tensor, k: Tensor, b: Tensor, inside: Tensor) -> Tensor:
    """q kᵀ ⊙ P where `inside` is true, and else 0."""
    if b.shape[-1] == 1:
        return _Faded.apply(q, k, bq, b, inside)  # type: ignore[no-untyped-call, no-any-return]
    middle = FLOOR * b.shape[-2] / 2  # b lies between twice this and 0
    return ((q * torch.exp(bq - middle)) @ (k * torch.exp(middle - b)).transpose(-1, -2)).masked_fill(~inside, 0)


class _Faded(torch.autograd.Function):
    """q kᵀ ⊙ exp(bq − bᵀ) where `inside` is true, and else 0; differences of b are taken in its own precision."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, bq: Tensor, b: Tensor, inside: Tensor) -> Tensor:
        P = (bq - b.transpose(-1, -2)).to(q.dtype).masked_fill_(~inside, -torch.inf).exp_()
        scores = (q @ k.transpose(-1, -2)).mul_(P)
        ctx.save_for_backward(q, k, P, scores)
        ctx.dtype = b.dtype
        return scores

    @staticmethod
    def backward(ctx: Any, dscores: Tensor) -> tuple[Tensor | None, ...]:
        q, k, P, scores = ctx.saved_tensors
        along, across = dscores * scores, dscores * P
        dbq, db = along.sum(-1, keepdim=True).to(ctx.dtype), along.sum(-2)[..., None].neg_().to(ctx.dtype)
        return across @ k, across.transpose(-1, -2) @ q, dbq, db, None


class _Solve(torch.autograd.Function):
    """(I + A)⁻¹ R for strictly lower triangular A; the way back needs the inverse too."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, R: Tensor) -> Tensor:
        one = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device).expand_as(A)
        T = torch.linalg.solve_triangular(A, one, upper=False, unitriangular=True)
        solved: Tensor = T @ R
        ctx.save_for_backward(T, solved)
        return solved

    @staticmethod
    def backward(ctx: Any, dsolved: Tensor) -> tuple[Tensor, Tensor]:
        T, solved = ctx.saved_tensors
        dR = T.transpose(-1, -2) @ dsolved
        return (dR @ solved.transpose(-1, -2)).neg_(), dR


def _segments(
    reset: Tensor | None, time: int, tokens: int, count: int, micro: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each chunk [batch, 1, count, …]: which pairs of steps lie in one segment, the later one first; which steps
    lie in the segment that the chunk begins with, and in that of its end; whether these two are one.
    """
    if reset is None:
        reset = torch.zeros(1, time, dtype=torch.bool, device=device)
    segment = reset.long().cumsum(1)
    segment = torch.cat([segment, segment[:, -1:].expand(-1, count * tokens - time)], dim=1)
    segment = torch.unflatten(segment.repeat_interleave(micro, dim=1), 1, (count, tokens * micro))[:, None]
    first = F.pad(segment[:, :, :-1, -1:], (0, 0, 1, 0))  # of a chunk: the segment in which the one before it ended
    inside = (segment[..., :, None] == segment[..., None, :]).tril()
    return inside, segment == first, segment == segment[..., -1:], (segment[..., -1] == first[..., 0])


class _Scan(torch.autograd.Function):
    """h[t] = a[t] h[t − 1] + b[t] over time, forwards and backwards: no graph of steps."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, h: Tensor) -> Tensor:
        hs = torch.empty_like(b, memory_format=torch.contiguous_format)
        start = h
        for at, bt, out in zip(a.unbind(1), b.unbind(1), hs.unbind(1), strict=True):
            h = torch.addcmul(bt, at, h, out=out)
        ctx.save_for_backward(a, start, hs)
        return hs

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, start, hs = ctx.saved_tensors
        a = a.conj().resolve_conj()
        db, da = torch.empty_like(hs), torch.empty_like(hs)
        after = db[:, -1].copy_(dy[:, -1])
        for dyt, at, out in zip(*(part.unbind(1)[::-1] for part in (dy[:, :-1], a[:, 1:], db[:, :-1])), strict=True):
            after = torch.addcmul(dyt, at, after, out=out)
        torch.mul(db[:, 1:], hs[:, :-1].conj(), out=da[:, 1:])
        torch.mul(db[:, 0], start.conj(), out=da[:, 0])
        return da, db, a[:, 0] * db[:, 0]


def scan(a: Tensor, b: Tensor, h: Tensor, reset: Bool[Tensor, "batch time"] | None = None) -> tuple[Tensor, Tensor]:
    """h' = a ⊙ h + b over a chunk: all states [batch, time, *shape], and the last. Real or complex numbers."""
    a, b = a.to(h.dtype).expand(b.shape), b.to(h.dtype)
    if reset is not None:
        a = a * (~reset).to(a).view(*reset.shape, *[1] * (a.ndim - 2))
    with torch.autocast(h.device.type, enabled=False):
        hs: Tensor = _Scan.apply(a, b, h)  # type: ignore[no-untyped-call]
    return hs, hs[:, -1]


class MatrixRecurrence(Recurrence):
    """A recurrence whose state is a matrix a head, and whose writes depend on its inputs alone."""

    gates = 1

    def __init__(self, hidden_size: int, heads: int, key_size: int | None) -> None:
        super().__init__()
        self.heads, self.value_size = heads, split(hidden_size, heads)
        self.key_size = key_size or self.value_size
        self.output_size = hidden_size
        self.state_spec = {"S": (heads, self.key_size, self.value_size)}

    @abstractmethod
    def writes(self, x: Float[Tensor, "*batch input"]) -> Writes:
        """What x does to the state."""

    @abstractmethod
    def output(self, o: Float[Tensor, "*batch heads value"], x: Float[Tensor, "*batch input"]) -> Tensor:
        """What was read → the output."""

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        o, S = chunked(self.writes(x), state["S"], reset)
        return self.output(o, x), {"S": S}

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        """What each head, or each of its key dimensions, keeps."""
        return {"forget": torch.exp(self.writes(x).g).flatten(1)}

    def by_head(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch heads size"]:
        return torch.unflatten(x, -1, (self.heads, -1))


def split(width: int, heads: int) -> int:
    """The width of one head.

    Raises:
        ValueError: the heads do not divide the width.
    """
    if heads < 1 or width % heads:
        raise ValueError(f"{heads} heads do not divide a width of {width}")
    return width // heads


def linear(input_size: int, *sizes: int) -> nn.Module:
    """A product without a bias; with several sizes, products one after another: one of low rank."""
    widths = [input_size, *sizes]
    return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in zip(widths, sizes, strict=False)))


def products(x: Float[Tensor, "*batch input"], *layers: nn.Module) -> tuple[Tensor, ...]:
    """What each `linear` layer of one product makes of x; with gradients by one product for all, which is faster."""
    weights = [layer[0].weight for layer in layers]  # type: ignore[index]
    if not (torch.is_grad_enabled() and weights[0].requires_grad):
        return tuple(layer(x) for layer in layers)
    return torch.split(F.linear(x, torch.cat(weights)), [len(weight) for weight in weights], dim=-1)


def gate(x: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
    """σ(x) in fp32 or more: one near 1 is 1 in bf16, and what is left of it to write, 1 − σ(x), is nothing."""
    return torch.sigmoid(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x)


def unit(x: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
    """x / ‖x‖, in fp32 or more."""
    if torch.is_grad_enabled() and x.requires_grad:
        return Scaled.apply(x, None, 1, torch.promote_types(x.dtype, torch.float32))  # type: ignore[no-untyped-call, no-any-return]
    return x / torch.sqrt((x * x).sum(dim=-1, keepdim=True) + EPSILON)


def normed(x: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
    """x over its root mean square."""
    return x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + EPSILON)


class HeadNorm(nn.Module):
    """Each head's output over its root mean square, times a weight a feature; the heads one after another."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, o: Float[Tensor, "*batch heads value"]) -> Float[Tensor, "*batch width"]:
        return rms_norm(o, self.weight.view(o.shape[-2:])).flatten(-2)


class Decay(nn.Module):
    """g = −exp(A) softplus(W x + b): the logarithm of a decay between 0 and 1, as in Mamba-2 (arXiv:2405.21060)."""

    def __init__(self, product: nn.Module, size: int, largest: float = 16.0, repeats: int = 1) -> None:
        """`product` makes W x of `size` numbers, each of which `repeats` dimensions share an A."""
        super().__init__()
        self.product, self.repeats = product, repeats
        self.A = nn.Parameter(torch.empty(size // repeats).uniform_(1, largest).log_())
        self.b = nn.Parameter(step_size_bias(size))

    def forward(self, x: Float[Tensor, "*batch input"]) -> Float[Tensor, "*batch size"]:
        return self.of(self.product(x))

    def of(self, Wx: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
        """g from a product that was computed elsewhere."""
        return -torch.exp(self.A).repeat_interleave(self.repeats) * F.softplus(Wx + self.b)


def step_size_bias(size: int) -> Tensor:
    """Biases of which softplus makes step sizes between 1e-3 and 1e-1, evenly on a logarithmic scale."""
    dt = torch.exp(torch.rand(size) * math.log(100) + math.log(1e-3))
    return dt + torch.log(-torch.expm1(-dt))


def turn(angle: Float[Tensor, "*batch pairs"]) -> Float[Tensor, "*batch pairs"]:
    """The same angle, between 0 and 2π."""
    return angle - 2 * math.pi * torch.floor(angle / (2 * math.pi))


def rotate(
    x: Float[Tensor, "*batch size"], cos: Float[Tensor, "*around pairs"], sin: Float[Tensor, "*around pairs"]
) -> Float[Tensor, "*batch size"]:
    """Pairs (x[i], x[pairs + i]) turned by angles of these cosines and sines; what is left of x stays."""
    pairs = cos.shape[-1]
    a, b, rest = torch.split(x, [pairs, pairs, x.shape[-1] - 2 * pairs], dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], dim=-1)


def positive(u: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
    """u + 1/2 for u ≥ 0, else σ(u): continuous, and never below zero (arXiv:2410.01201)."""
    return F.relu(u) + torch.sigmoid(-F.relu(-u))


def before(
    x: Float[Tensor, "batch time *size"], first: Float[Tensor, "batch *size"], reset: Bool[Tensor, "batch time"] | None
) -> Float[Tensor, "batch time *size"]:
    """The element before each one: `first` before x[0], and zero at a reset."""
    shifted = torch.cat([first[:, None].to(x.dtype), x[:, :-1]], dim=1)
    return shifted if reset is None else shifted.masked_fill(reset.view(*reset.shape, *[1] * (x.ndim - 2)), 0)
