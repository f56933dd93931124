"""The graphs of a bundle: the traced work of one token (steps.py), put into loops over time.

No variant has export code of its own: everything rests on `Recurrence.step` and `state_spec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor

from recurlm.config import Export, Precision
from recurlm.export.assemble import Graph, Shape
from recurlm.export.quantize import Rounding
from recurlm.export.sampling import suppression
from recurlm.export.steps import Cut, Decode, Draw, Half, LogProb, Read, Scale, Score, Step
from recurlm.export.sums import simplify
from recurlm.export.trace import trace
from recurlm.model import LanguageModel

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
Carried = dict[str, tuple[str, int, Shape]]  # name → (first value, element type, shape)
Trip = tuple[dict[str, str], list[tuple[str, int, Shape]]]  # what is carried on, and what is collected


@dataclass(frozen=True)
class Builder:
    """Makes the graphs of one model."""

    model: LanguageModel
    suppressed: list[int]  # tokens that are never drawn
    settings: Export
    precision: Precision = "fp32"
    rounding: Rounding | None = None  # left out, all is written in fp32, in the form that `precision` wants

    @property
    def opset(self) -> int:
        return self.settings.opset

    def graphs(self) -> dict[str, onnx.GraphProto]:
        """File name → graph, as the bundle of this kind of model holds them."""
        if self.model.causal:
            return {"step.onnx": self.step(), "generator.onnx": self.generator(), "scorer.onnx": self.scorer()}
        return {"step.onnx": self.step(), "filler.onnx": self.filler(), "scorer.onnx": self.cloze_scorer()}

    def _trace(self, module: torch.nn.Module, before: dict[str, Tensor], outputs: list[str]) -> onnx.GraphProto:
        """Trace one token's work of a module that takes `before` and then the states that it names."""
        names: list[str] = getattr(module, "names", [])
        state = self.model.initial_state(2)
        inputs = before | {f"state.{name}": state[name] for name in names}
        graph = trace(module, inputs, [*outputs, *(f"next_state.{name}" for name in names)], self.opset)
        block = self.settings.int4_block if self.precision == "int4" else 1
        origins = simplify(graph, int(self.settings.largest_table_megabytes * 1e6), block)
        if self.rounding is not None:
            self.rounding.write(graph, origins)
        return graph

    def step(self) -> onnx.GraphProto:
        """step.onnx: one token."""
        return self._step

    @cached_property
    def _step(self) -> onnx.GraphProto:
        return self._trace(Step(self.model), {"token": _TOKEN}, ["logits"])

    def half(self, side: str) -> onnx.GraphProto:
        """One direction of a cloze model at one token."""
        return self._trace(Half(self.model, side), {"token": _TOKEN}, ["known"])

    def decode(self) -> onnx.GraphProto:
        """What both directions of a cloze model know → logits."""
        width = self.model.recurrence.output_size // 2
        return self._trace(Decode(self.model), {"left": _rows(width), "right": _rows(width)}, ["logits"])

    def generator(self) -> onnx.GraphProto:
        """generator.onnx: read the prompts, then draw and read token after token, all in one call.

        Prompts are moved to the right, so that rows of different lengths end together:

            prompt          aligned         read in the first loop     the second loop starts with
            a b c ·         · a b c            · a b                    c
            d e · ·         · · d e            · · d                    e
        """
        graph = Graph()
        prompt = graph.input("prompt", INT, ["batch", "prompt_time"])
        length = graph.input("prompt_length", INT, ["batch"])
        new_tokens = graph.input("max_new_tokens", INT, [])
        temperature = graph.input("temperature", FLOAT, ["batch"])
        top_k = graph.input("top_k", INT, ["batch"])
        top_p = graph.input("top_p", FLOAT, ["batch"])
        uniform = graph.input("uniform", FLOAT, ["batch", "uniform_time"])
        state = self._state_inputs(graph, length)

        time = graph.op("Gather", graph.op("Shape", prompt), graph.constant(1))
        last = graph.op("Sub", time, graph.constant(1))
        padding = graph.op("Sub", time, length)
        position = graph.op("Range", graph.constant(0), time, graph.constant(1))
        shifted = graph.op("Sub", position, graph.op("Unsqueeze", padding, graph.constant([1])))
        aligned = graph.op("GatherElements", prompt, graph.op("Max", shifted, graph.constant(0)), axis=1)

        read = self._trace(Read(self.model), {"token": _TOKEN, "active": _ACTIVE}, [])

        def read_one(body: Graph, trip: str, values: dict[str, str]) -> Trip:
            token = body.op("Gather", aligned, trip, axis=1)
            active = body.op("GreaterOrEqual", trip, padding)
            return _next(body.inline(read, {"token": token, "active": active} | _prefixed(values))), []

        state_after, _ = graph.loop(last, state, read_one)
        any_cut = self._any_cut(graph, top_k, top_p)
        step, sampler = self.step(), _Sampler(self.model.vocabulary_size, self.suppressed, self.opset)

        def draw_one(body: Graph, trip: str, values: dict[str, str]) -> Trip:
            token = values.pop("token")
            results = body.inline(step, {"token": token} | _prefixed(values))
            number = body.op("Gather", uniform, trip, axis=1)
            drawn = sampler.draw(body, results["logits"], temperature, top_k, top_p, number, any_cut)
            return {"token": drawn} | _next(results), [(drawn, INT, ["batch"])]

        first = graph.op("Gather", aligned, last, axis=1)
        carried: Carried = {"token": (first, INT, ["batch"])}
        carried |= {name: (state_after[name], FLOAT, shape) for name, (_, _, shape) in state.items()}
        final, (drawn,) = graph.loop(new_tokens, carried, draw_one)
        graph.output(graph.op("Transpose", drawn, perm=[1, 0]), "tokens", INT, ["batch", "new_time"])
        self._state_outputs(graph, final)
        return graph.proto("generator")

    def scorer(self) -> onnx.GraphProto:
        """scorer.onnx: the log-probability of every token but the first, given those before it."""
        graph = Graph()
        tokens = graph.input("tokens", INT, ["batch", "time"])
        length = graph.input("length", INT, ["batch"])
        state = self._state_inputs(graph, length)
        one = graph.constant(1)
        time = graph.op("Gather", graph.op("Shape", tokens), one)
        score = self._trace(Score(self.model), {"token": _TOKEN, "target": _TOKEN, "active": _ACTIVE}, ["log_prob"])

        def score_one(body: Graph, trip: str, values: dict[str, str]) -> Trip:
            following = body.op("Add", trip, one)
            inputs = {
                "token": body.op("Gather", tokens, trip, axis=1),
                "target": body.op("Gather", tokens, following, axis=1),
                "active": body.op("Less", following, length),
            }
            results = body.inline(score, inputs | _prefixed(values))
            return _next(results), [(results["log_prob"], FLOAT, ["batch"])]

        final, (log_prob,) = graph.loop(graph.op("Sub", time, one), state, score_one)
        graph.output(graph.op("Transpose", log_prob, perm=[1, 0]), "log_prob", FLOAT, ["batch", "scored_time"])
        self._state_outputs(graph, final)
        return graph.proto("scorer")

    def filler(self) -> onnx.GraphProto:
        """filler.onnx: for every position, a token drawn from its distribution given all others."""
        graph = Graph()
        tokens, length = self._text_inputs(graph)
        temperature = graph.input("temperature", FLOAT, ["batch"])
        top_k = graph.input("top_k", INT, ["batch"])
        top_p = graph.input("top_p", FLOAT, ["batch"])
        uniform = graph.input("uniform", FLOAT, ["batch", "time"])
        shape = graph.op("Shape", tokens)
        flat = graph.constant([-1])
        # One row a position: every setting is repeated along its row's positions.
        settings = [
            graph.op("Reshape", graph.op("Expand", graph.op("Unsqueeze", value, graph.constant([1])), shape), flat)
            for value in (temperature, top_k, top_p)
        ]
        any_cut = self._any_cut(graph, top_k, top_p)
        logits = self._cloze_logits(graph, tokens, length)
        sampler = _Sampler(self.model.vocabulary_size, self.suppressed, self.opset)
        drawn = sampler.draw(
            graph, logits, settings[0], settings[1], settings[2], graph.op("Reshape", uniform, flat), any_cut
        )
        log_prob = graph.inline(_log_prob(self.model.vocabulary_size, self.opset), {"logits": logits, "token": drawn})
        graph.output(graph.op("Reshape", drawn, shape), "filled", INT, ["batch", "time"])
        graph.output(graph.op("Reshape", log_prob["log_prob"], shape), "log_prob", FLOAT, ["batch", "time"])
        return graph.proto("filler")

    def cloze_scorer(self) -> onnx.GraphProto:
        """scorer.onnx of a model that reads both sides: each token's log-probability given all others."""
        graph = Graph()
        tokens, length = self._text_inputs(graph)
        shape = graph.op("Shape", tokens)
        flat = graph.op("Reshape", tokens, graph.constant([-1]))
        logits = self._cloze_logits(graph, tokens, length)
        scored = graph.inline(_log_prob(self.model.vocabulary_size, self.opset), {"logits": logits, "token": flat})
        log_prob = graph.op("Reshape", scored["log_prob"], shape)
        time = graph.op("Gather", shape, graph.constant(1))
        position = graph.op("Range", graph.constant(0), time, graph.constant(1))
        inside = graph.op("Less", position, graph.op("Unsqueeze", length, graph.constant([1])))
        zero = graph.constant(0.0, np.float32)
        graph.output(graph.op("Where", inside, log_prob, zero), "log_prob", FLOAT, ["batch", "time"])
        return graph.proto("scorer")

    def _cloze_logits(self, graph: Graph, tokens: str, length: str) -> str:
        """Logits for every position, as rows [batch × time, vocabulary]."""
        backwards = graph.op("ReverseSequence", tokens, length, batch_axis=0, time_axis=1)
        time = graph.op("Gather", graph.op("Shape", tokens), graph.constant(1))
        width = self.model.recurrence.output_size // 2
        knowledge = {}
        for side, text in (("left", tokens), ("right", backwards)):
            half = self.half(side)

            def read_one(
                body: Graph, trip: str, values: dict[str, str], half: onnx.GraphProto = half, text: str = text
            ) -> Trip:
                token = body.op("Gather", text, trip, axis=1)
                results = body.inline(half, {"token": token} | _prefixed(values))
                return _next(results), [(results["known"], FLOAT, ["batch", width])]

            _, (known,) = graph.loop(time, self._zero_state(graph, length, f"{side}."), read_one)
            knowledge[side] = graph.op("Transpose", known, perm=[1, 0, 2])
        forwards = graph.op("ReverseSequence", knowledge["right"], length, batch_axis=0, time_axis=1)
        rows = graph.constant([-1, width])
        decode = self.decode()
        left, right = graph.op("Reshape", knowledge["left"], rows), graph.op("Reshape", forwards, rows)
        return graph.inline(decode, {"left": left, "right": right})["logits"]

    def _text_inputs(self, graph: Graph) -> tuple[str, str]:
        return graph.input("tokens", INT, ["batch", "time"]), graph.input("length", INT, ["batch"])

    def _state_inputs(self, graph: Graph, like: str) -> Carried:
        """One optional input a state; left out, it is one row of zeros, repeated for the batch."""
        carried: Carried = {}
        for name, shape in self.model.recurrence.state_spec.items():
            zeros = np.zeros((1, *shape), np.float32)
            value = graph.input(f"state.{name}", FLOAT, ["state_batch", *shape], default=zeros)
            carried[name] = (self._for_batch(graph, value, like, shape), FLOAT, ["batch", *shape])
        return carried

    def _zero_state(self, graph: Graph, like: str, prefix: str) -> Carried:
        carried: Carried = {}
        for name, shape in self.model.recurrence.state_spec.items():
            if name.startswith(prefix):
                zeros = graph.weight(f"zeros.{'x'.join(map(str, shape))}", np.zeros((1, *shape), np.float32))
                carried[name] = (self._for_batch(graph, zeros, like, shape), FLOAT, ["batch", *shape])
        return carried

    @staticmethod
    def _for_batch(graph: Graph, value: str, like: str, shape: tuple[int, ...]) -> str:
        target = graph.op("Concat", graph.op("Shape", like), graph.constant(list(shape)), axis=0)
        return graph.op("Expand", value, target)

    def _state_outputs(self, graph: Graph, final: dict[str, str]) -> None:
        for name, shape in self.model.recurrence.state_spec.items():
            graph.output(final[name], f"next_state.{name}", FLOAT, ["batch", *shape])

    @staticmethod
    def _any_cut(graph: Graph, top_k: str, top_p: str) -> str:
        """Whether some row asks for top-k or top-p."""
        asks_k = graph.op("Greater", top_k, graph.constant(0))
        asks_p = graph.op("Less", top_p, graph.constant(1.0, np.float32))
        asks = graph.op("Cast", graph.op("Or", asks_k, asks_p), to=TensorProto.INT32)
        return graph.op("Cast", graph.op("ReduceMax", asks, keepdims=0), to=TensorProto.BOOL)


class _Sampler:
    """Draws a token in a graph; sorts the vocabulary only in a call where some row asks for top-k or top-p."""

    def __init__(self, vocabulary_size: int, suppressed: list[int], opset: int) -> None:
        rows, one = _rows(vocabulary_size), torch.ones(2)
        self.scale = trace(
            Scale(suppression(vocabulary_size, suppressed)), {"logits": rows, "temperature": one}, ["scaled"], opset
        )
        self.cut = trace(Cut(), {"scaled": rows, "top_k": _TOKEN, "top_p": one}, ["kept"], opset)
        self.choose = trace(Draw(), {"scaled": rows, "temperature": one, "uniform": one}, ["token"], opset)
        self.shape: Shape = ["rows", vocabulary_size]

    def draw(
        self, graph: Graph, logits: str, temperature: str, top_k: str, top_p: str, uniform: str, any_cut: str
    ) -> str:
        scaled = graph.inline(self.scale, {"logits": logits, "temperature": temperature})["scaled"]
        kept = graph.choose(
            any_cut,
            lambda branch: branch.inline(self.cut, {"scaled": scaled, "top_k": top_k, "top_p": top_p})["kept"],
            lambda branch: scaled,
            FLOAT,
            self.shape,
        )
        return graph.inline(self.choose, {"scaled": kept, "temperature": temperature, "uniform": uniform})["token"]


def _log_prob(vocabulary_size: int, opset: int) -> onnx.GraphProto:
    return trace(LogProb(), {"logits": _rows(vocabulary_size), "token": _TOKEN}, ["log_prob"], opset)


_TOKEN = torch.zeros(2, dtype=torch.int64)
_ACTIVE = torch.ones(2, dtype=torch.bool)


def _rows(width: int) -> Tensor:
    return torch.zeros(2, width)


def _prefixed(values: dict[str, str]) -> dict[str, str]:
    return {f"state.{name}": value for name, value in values.items()}


def _next(results: dict[str, str]) -> dict[str, str]:
    prefix = "next_state."
    return {name.removeprefix(prefix): value for name, value in results.items() if name.startswith(prefix)}
