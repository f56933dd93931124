"""The graphs of a bundle: the traced work of one token (steps.py), put into loops over time.

No variant has export code of its own: everything rests on `Recurrence.step` and `state_spec`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor

from recurlm.config import Export
from recurlm.export import steps
from recurlm.export.assemble import Carried, Graph, Trip
from recurlm.export.exact_graph import rewrite
from recurlm.export.gates import join_gates
from recurlm.export.products import join_functions, join_products
from recurlm.export.quantize import Inputs, Quantizer
from recurlm.export.rewriter import with_outputs
from recurlm.export.sampler import Sampler, traced_parts
from recurlm.export.sums import simplify
from recurlm.export.trace import trace
from recurlm.model import LanguageModel
from recurlm.objective import bidirectional

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
GATE = "gate."  # begins the names of step.onnx's outputs that are gates


Values = dict[str, str]


@dataclass
class ExportCache:
    """Traces and calibration: what takes seconds, and is the same in each precision of a model."""

    traces: dict[str, onnx.GraphProto] = field(default_factory=dict)
    """What torch's exporter made of the model's modules."""
    inputs: dict[str, Inputs] = field(default_factory=dict)
    """Of its products, while it read the text that it is calibrated on."""


@dataclass(frozen=True)
class Builder:
    """Makes the graphs of one model."""

    model: LanguageModel
    suppressed: list[int]  # tokens that are never drawn
    settings: Export
    quantizer: Quantizer | None = None  # left out, all is written in fp32
    cache: ExportCache = field(default_factory=ExportCache)

    @property
    def names(self) -> list[str]:
        """Of the states."""
        return list(self.model.recurrence.state_spec)

    def _trace(
        self, module: torch.nn.Module, before: dict[str, Tensor], outputs: list[str], names: Iterable[str] = ()
    ) -> onnx.GraphProto:
        """Trace one token's work of a module that takes `before` and then the states of these names."""
        state = self.model.initial_state(2)
        inputs = before | {f"state.{name}": state[name] for name in names}
        graph = onnx.GraphProto()
        graph.CopyFrom(self._traced(module, inputs, [*outputs, *(f"next_state.{name}" for name in names)]))
        origins = simplify(graph, int(self.settings.max_folded_table_mb * 1e6))
        if self.quantizer is not None:
            self.quantizer.write(graph, origins)
            join_products(graph)
            join_gates(graph)
            join_functions(graph)
            rewrite(graph, inexact=frozenset({"log_prob"}))
        return graph

    def _traced(self, module: torch.nn.Module, inputs: dict[str, Tensor], outputs: list[str]) -> onnx.GraphProto:
        """The outputs' names tell one module of a model from another."""
        name, traces = " ".join(outputs), self.cache.traces
        if name not in traces:
            traces[name] = trace(module, inputs, outputs, self.settings.opset)
        return traces[name]

    def sampler(self) -> Sampler:
        size = self.model.vocab_size
        return Sampler(size, traced_parts(size, tuple(self.suppressed), self.settings.opset))

    def _log_prob(self) -> onnx.GraphProto:
        rows = _rows(self.model.vocab_size)
        return self._traced(steps.FunctionModule(steps.log_prob), {"logits": rows, "token": _TOKEN}, ["log_prob"])

    @cached_property
    def step(self) -> onnx.GraphProto:
        """One token: the logits of the next one, and the next states."""
        graph = self.gated_step
        return with_outputs(graph, [output.name for output in graph.output if not output.name.startswith(GATE)])

    @cached_property
    def gated_step(self) -> onnx.GraphProto:
        """step.onnx: one token, and what its gates were."""
        module, gates = steps.gated_step(self.model)
        return self._trace(module, {"token": _TOKEN}, ["logits", *(f"{GATE}{name}" for name in gates)], self.names)

    def side(self, side: str) -> onnx.GraphProto:
        """One token on one side of a cloze model."""
        names = bidirectional(self.model.recurrence).states_of(side)
        return self._trace(steps.side_step(self.model, side), {"token": _TOKEN}, [], names)

    def decode(self) -> onnx.GraphProto:
        """The outputs of both sides of a cloze model → logits."""
        sides = bidirectional(self.model.recurrence).directions
        outputs = {side: _rows(recurrence.output_size) for side, recurrence in sides.items()}
        return self._trace(steps.decode(self.model), outputs, ["logits"])

    def read(self) -> onnx.GraphProto:
        """One token of a prompt, in the rows that are active."""
        return self._trace(steps.read(self.model), {"token": _TOKEN, "active": _ACTIVE}, [], self.names)

    def scorer(self) -> onnx.GraphProto:
        """scorer.onnx: the log-probability of every token but the first, given those before it."""
        graph = Graph()
        tokens = graph.input("tokens", INT, ["batch", "time"])
        length = graph.input("length", INT, ["batch"])
        state = self.state_inputs(graph, length)
        one = graph.constant(1)
        time = graph.op("Gather", graph.op("Shape", tokens), one)
        before = {"token": _TOKEN, "target": _TOKEN, "active": _ACTIVE}
        score = self._trace(steps.score(self.model), before, ["log_prob"], self.names)

        def score_one(body: Graph, trip: str, values: dict[str, str]) -> Trip:
            following = body.op("Add", trip, one)
            inputs = {
                "token": body.op("Gather", tokens, trip, axis=1),
                "target": body.op("Gather", tokens, following, axis=1),
                "active": body.op("Less", following, length),
            }
            results = body.inline(score, inputs | prefixed(values))
            return next_state(results), [(results["log_prob"], FLOAT, ["batch"])]

        final, (log_prob,) = graph.loop(graph.op("Sub", time, one), state, score_one)
        graph.output(graph.op("Transpose", log_prob, perm=[1, 0]), "log_prob", FLOAT, ["batch", "scored_time"])
        self.state_outputs(graph, final)
        return graph.proto("scorer")

    def filler(self) -> onnx.GraphProto:
        """filler.onnx: for every position, a token drawn from its distribution given all others."""
        graph = Graph()
        tokens, length = graph.input("tokens", INT, ["batch", "time"]), graph.input("length", INT, ["batch"])
        temperature = graph.input("temperature", FLOAT, ["batch"])
        top_k = graph.input("top_k", INT, ["batch"])
        top_p = graph.input("top_p", FLOAT, ["batch"])
        uniform = graph.input("uniform", FLOAT, ["batch", "time"])
        shape = graph.op("Shape", tokens)
        flat, column = graph.constant([-1]), graph.constant([1])
        # One row a position: every setting is repeated along its row's positions.
        repeated = [
            graph.op("Reshape", graph.op("Expand", graph.op("Unsqueeze", value, column), shape), flat)
            for value in (temperature, top_k, top_p)
        ]
        sampler = self.sampler()
        min_p = graph.op("Mul", repeated[2], graph.constant(0.0, np.float32))
        settings = sampler.settings(graph, repeated[0], repeated[1], repeated[2], min_p)
        logits = self._cloze_logits(graph, tokens, length)
        numbers = graph.op("Unsqueeze", graph.op("Reshape", uniform, flat), column)
        kept = sampler.cut(graph, sampler.weights(graph, logits, settings), settings)
        drawn = sampler.draw(graph, kept, sampler.thresholds(graph, numbers, settings))
        log_prob = graph.inline(self._log_prob(), {"logits": logits, "token": drawn})
        graph.output(graph.op("Reshape", drawn, shape), "filled", INT, ["batch", "time"])
        graph.output(graph.op("Reshape", log_prob["log_prob"], shape), "log_prob", FLOAT, ["batch", "time"])
        return graph.proto("filler")

    def cloze_scorer(self) -> onnx.GraphProto:
        """scorer.onnx of a model that reads both sides: each token's log-probability given all others."""
        graph = Graph()
        tokens, length = graph.input("tokens", INT, ["batch", "time"]), graph.input("length", INT, ["batch"])
        shape = graph.op("Shape", tokens)
        flat = graph.op("Reshape", tokens, graph.constant([-1]))
        logits = self._cloze_logits(graph, tokens, length)
        scored = graph.inline(self._log_prob(), {"logits": logits, "token": flat})
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
        left = self._outputs(graph, "left", tokens, length, time)
        right = self._outputs(graph, "right", backwards, length, time)
        right = graph.op("ReverseSequence", right, length, batch_axis=0, time_axis=1)
        sides = bidirectional(self.model.recurrence).directions
        rows = {
            side: graph.op("Reshape", y, graph.constant([-1, sides[side].output_size]))
            for side, y in (("left", left), ("right", right))
        }
        return graph.inline(self.decode(), rows)["logits"]

    def _outputs(self, graph: Graph, side: str, text: str, length: str, time: str) -> str:
        """A side's outputs before each token was read, which predict it: [batch, time, width]."""
        step, output = self.side(side), f"{side}.output"
        width = bidirectional(self.model.recurrence).directions[side].output_size

        def read_one(body: Graph, trip: str, values: Values) -> Trip:
            token = body.op("Gather", text, trip, axis=1)
            results = body.inline(step, {"token": token} | prefixed(values))
            return next_state(results), [(values[output], FLOAT, ["batch", width])]

        _, (known,) = graph.loop(time, self._zero_state(graph, length, side), read_one)
        return graph.op("Transpose", known, perm=[1, 0, 2])

    def state_inputs(self, graph: Graph, like: str) -> Carried:
        """One input a state: a row for each sequence, or one row for all."""
        carried: Carried = {}
        for name, shape in self.model.recurrence.state_spec.items():
            value = graph.input(f"state.{name}", FLOAT, ["state_batch", *shape])
            carried[name] = (self.for_batch(graph, value, like, shape), FLOAT, ["batch", *shape])
        return carried

    def _zero_state(self, graph: Graph, like: str, side: str) -> Carried:
        carried: Carried = {}
        recurrence = bidirectional(self.model.recurrence)
        for name in recurrence.states_of(side):
            shape = recurrence.state_spec[name]
            zeros = graph.weight(f"zeros.{'x'.join(map(str, shape))}", np.zeros((1, *shape), np.float32))
            carried[name] = (self.for_batch(graph, zeros, like, shape), FLOAT, ["batch", *shape])
        return carried

    @staticmethod
    def for_batch(graph: Graph, value: str, like: str, shape: tuple[int, ...]) -> str:
        target = graph.op("Concat", graph.op("Shape", like), graph.constant(list(shape)), axis=0)
        return graph.op("Expand", value, target)

    def state_outputs(self, graph: Graph, final: dict[str, str]) -> None:
        for name, shape in self.model.recurrence.state_spec.items():
            graph.output(final[name], f"next_state.{name}", FLOAT, ["batch", *shape])


def prefixed(values: Values) -> Values:
    return {f"state.{name}": value for name, value in values.items()}


def next_state(results: Values) -> Values:
    prefix = "next_state."
    return {name.removeprefix(prefix): value for name, value in results.items() if name.startswith(prefix)}


_TOKEN = torch.zeros(2, dtype=torch.int64)
_ACTIVE = torch.ones(2, dtype=torch.bool)


def _rows(width: int) -> Tensor:
    return torch.zeros(2, width)
