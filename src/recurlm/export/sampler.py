"""The drawing of a token, put into a graph. Work that the call's settings don't ask for is not done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto

from recurlm.export import sampling
from recurlm.export.assemble import Graph, Shape
from recurlm.export.rewriter import with_outputs
from recurlm.export.steps import FunctionModule
from recurlm.export.trace import trace

DOUBLE, INT = TensorProto.DOUBLE, TensorProto.INT64
NUCLEUS = 256  # tokens ranked at first where top-p alone is asked for; all are, if these don't hold enough


Parts = dict[str, onnx.GraphProto]


@dataclass(frozen=True)
class Settings:
    """Values in a graph: one a row, and what follows from them for all rows, computed once a call."""

    divisor: str  # [rows, 1]
    greedy: str  # [rows, 1] of bool
    limits: dict[str, str]  # of sampling.Limits
    cuts: str  # whether some row asks for top-k, top-p or min-p
    width: str  # how many of the likeliest tokens are ranked at first,
    certain: str  # and whether these must be enough


class Sampler:
    """Draws tokens in a graph."""

    def __init__(self, vocab_size: int, parts: Parts) -> None:
        self.vocab_size = vocab_size
        self.shape: Shape = ["rows", vocab_size]
        self._parts = parts

    def settings(self, graph: Graph, temperature: str, top_k: str, top_p: str, min_p: str) -> Settings:
        """What the settings of a call come to, before anything is drawn; each is [rows]."""
        zero, one = graph.constant(0), graph.constant(1.0, np.float32)
        column = graph.op("Unsqueeze", temperature, graph.constant([1]))
        greedy = graph.op("Not", graph.op("Greater", column, graph.constant(0.0, np.float32)))
        divisor = graph.op("Where", greedy, graph.constant(sampling.GREEDY, np.float32), column)
        by_p = graph.op("Less", top_p, one)
        by_k = graph.op("Greater", top_k, zero)
        by_min_p = graph.op("Greater", min_p, graph.constant(0.0, np.float32))
        cuts = graph.any(graph.op("Or", graph.op("Or", by_k, by_p), by_min_p))
        by_p_alone = graph.op("And", by_p, graph.op("Not", by_k))
        nucleus = graph.op("Where", by_p_alone, graph.constant(NUCLEUS), graph.constant(1))
        certain = graph.op("Not", graph.any(by_p_alone))
        widest = graph.op("ReduceMax", graph.op("Max", nucleus, top_k), keepdims=0)
        width = graph.op("Min", widest, graph.constant(self.vocab_size))
        limits = graph.inline(self._parts["limits"], {"top_k": top_k, "top_p": top_p, "min_p": min_p})
        return Settings(divisor, greedy, limits, cuts, graph.op("Unsqueeze", width, graph.constant([0])), certain)

    def thresholds(self, graph: Graph, uniform: str, settings: Settings) -> str:
        """Uniform numbers [rows, time] as `sampling.draw` reads them."""
        below = graph.op("Min", uniform, graph.constant(sampling.LARGEST_UNIFORM, np.float32))
        numbers = graph.op("Where", settings.greedy, graph.constant(0.0, np.float32), below)
        return graph.op("Cast", numbers, to=DOUBLE)

    def weights(self, graph: Graph, logits: str, settings: Settings) -> str:
        scaled = graph.inline(self._parts["scale"], {"logits": logits, "divisor": settings.divisor})["scaled"]
        return graph.inline(self._parts["weights"], {"scaled": scaled})["weight"]

    def cut(self, graph: Graph, weight: str, settings: Settings) -> str:
        """Top-k, top-p and min-p, where some row asks for them."""
        kinds: list[tuple[int, Shape]] = [(INT, ["rows", "width"]), (DOUBLE, ["weighed", 1])]

        def ranked_by_nucleus(branch: Graph, likeliest: str) -> list[str]:
            whole = branch.inline(self._parts["weigh"], {"weight": weight})["whole"]
            asks = {name: settings.limits[name] for name in ("limited", "nucleus")}
            enough = branch.inline(self._parts["covered"], {"ranked": likeliest, "whole": whole, **asks})["covered"]
            everything = branch.constant([self.vocab_size])
            ranked = branch.choose(
                branch.all(enough), lambda _: [likeliest], lambda inner: [inner.top(weight, everything)], kinds[:1]
            )
            return [*ranked, whole]

        def kept(branch: Graph) -> list[str]:
            likeliest = branch.top(weight, settings.width)
            ranked, whole = branch.choose(
                settings.certain,
                lambda inner: [likeliest, inner.constant([[1.0]], np.float64)],  # not looked at
                lambda inner: ranked_by_nucleus(inner, likeliest),
                kinds,
            )
            values = {"weight": weight, "ranked": ranked, "whole": whole, **settings.limits}
            return [branch.inline(self._parts["cut"], values)["kept"]]

        return graph.choose(settings.cuts, kept, lambda branch: [weight], [(INT, self.shape)])[0]

    def draw(self, graph: Graph, weight: str, threshold: str) -> str:
        """A token for each row; `threshold` is [rows, 1]."""
        return graph.inline(self._parts["draw"], {"weight": weight, "threshold": threshold})["token"]

    def penalize(self, graph: Graph, logits: str, seen: str, penalty: str) -> str:
        return graph.inline(self._parts["penalize"], {"logits": logits, "seen": seen, "penalty": penalty})["penalized"]

    def remember(self, graph: Graph, seen: str, token: str) -> str:
        return graph.inline(self._parts["remember"], {"seen": seen, "token": token})["remembered"]


@cache
def traced_parts(vocab_size: int, suppressed: tuple[int, ...], opset: int) -> Parts:
    """The functions of `sampling`, traced: all at once, since each call of torch's exporter takes half a second.

    Args:
        suppressed: tokens that are never drawn.
    """
    rows, one = torch.zeros(2, vocab_size), torch.ones(2)
    token = torch.zeros(2, dtype=torch.int64)
    seen = torch.zeros(2, vocab_size, dtype=torch.bool)
    mask = sampling.suppression(vocab_size, list(suppressed))
    weight = torch.ones(2, vocab_size, dtype=torch.int64)
    ranked, whole = torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 1, dtype=torch.float64)
    asked = sampling.limits(token, one, one, vocab_size)._asdict()
    asked_of_ranks = {name: asked[name] for name in ("limited", "nucleus")}

    def limits(top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor) -> sampling.Limits:
        return sampling.limits(top_k, top_p, min_p, vocab_size)

    def scale(logits: torch.Tensor, divisor: torch.Tensor) -> torch.Tensor:
        return sampling.scale(logits, divisor, mask)

    functions: list[tuple[Callable[..., Any], dict[str, torch.Tensor], list[str]]] = [
        (sampling.penalize, {"logits": rows, "seen": seen, "penalty": one}, ["penalized"]),
        (sampling.remember, {"seen": seen, "token": token}, ["remembered"]),
        (scale, {"logits": rows, "divisor": one[:, None]}, ["scaled"]),
        (sampling.weights, {"scaled": rows}, ["weight"]),
        (limits, {"top_k": token, "top_p": one, "min_p": one}, list(asked)),
        (sampling.weigh, {"weight": weight}, ["whole"]),
        (sampling.covered, {"ranked": ranked, "whole": whole, **asked_of_ranks}, ["covered"]),
        (sampling.cut, {"weight": weight, "ranked": ranked, "whole": whole, **asked}, ["kept"]),
        (sampling.draw, {"weight": weight, "threshold": whole}, ["token"]),
    ]
    inputs = {f"{call.__name__}.{name}": value for call, values, _ in functions for name, value in values.items()}
    outputs = [f"{call.__name__}.{name}" for call, _, names in functions for name in names]
    wide = {name: name.replace(".", "_") for name in inputs if name.endswith(".ranked")}

    def together(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """All functions, each on its own arguments."""
        left, results = iter(values), list[torch.Tensor]()
        for call, given, _ in functions:
            result = call(*islice(left, len(given)))
            results.extend(result if isinstance(result, tuple) else [result])
        return tuple(results)

    graph = trace(FunctionModule(together), inputs, outputs, opset, wide)
    return {call.__name__: _part(graph, f"{call.__name__}.") for call, _, _ in functions}


def _part(graph: onnx.GraphProto, prefix: str) -> onnx.GraphProto:
    """What computes the outputs with this prefix, which their names and the inputs' lose."""
    part = with_outputs(graph, [output.name for output in graph.output if output.name.startswith(prefix)])
    inputs = [value for value in part.input if value.name.startswith(prefix)]
    del part.input[:]
    part.input.extend(inputs)
    for value in (*part.input, *part.output):
        value.name = value.name.removeprefix(prefix)
    for node in part.node:
        for names in (node.input, node.output):
            names[:] = [name.removeprefix(prefix) for name in names]
    return part
