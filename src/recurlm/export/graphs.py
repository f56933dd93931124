"""The graphs of a bundle: the traced work of one token (steps.py), put into loops over time.

No variant has export code of its own: everything rests on `Recurrence.step` and `state_spec`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor

from recurlm.config import Export
from recurlm.export.assemble import Carried, Graph, Trip
from recurlm.export.calibrate import Inputs
from recurlm.export.exact_graph import ancestors, rewrite
from recurlm.export.gates import join_gates
from recurlm.export.quantize import Quantizer
from recurlm.export.sampler import Parts, Sampler, traced_parts
from recurlm.export.steps import Decode, FunctionModule, GatedStep, Read, Score, SideStep, log_prob
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
    sampler: Callable[[], Parts] | None = None
    """Gives the sampler's parts, traced elsewhere; left out, they are traced when they are needed."""


@dataclass(frozen=True)
class Builder:
    """Makes the graphs of one model."""

    model: LanguageModel
    suppressed: list[int]  # tokens that are never drawn
    settings: Export
    quantizer: Quantizer | None = None  # left out, all is written in fp32
    cache: ExportCache = field(default_factory=ExportCache)

    @property
    def opset(self) -> int:
        return self.settings.opset

    def _trace(self, module: torch.nn.Module, before: dict[str, Tensor], outputs: list[str]) -> onnx.GraphProto:
        """Trace one token's work of a module that takes `before` and then the states that it names."""
        names: list[str] = getattr(module, "names", [])
        state = self.model.initial_state(2)
        inputs = before | {f"state.{name}": state[name] for name in names}
        graph = onnx.GraphProto()
        graph.CopyFrom(self._traced(module, inputs, [*outputs, *(f"next_state.{name}" for name in names)]))
        origins = simplify(graph, int(self.settings.max_folded_table_mb * 1e6))
        if self.quantizer is not None:
            self.quantizer.write(graph, origins)
            join_gates(graph)
            rewrite(graph, inexact=frozenset({"log_prob"}))
        return graph

    def _traced(self, module: torch.nn.Module, inputs: dict[str, Tensor], outputs: list[str]) -> onnx.GraphProto:
        name = f"{type(module).__name__} {' '.join(outputs)}"
        traces = self.cache.traces
        if name not in traces:
            traces[name] = trace(module, inputs, outputs, self.opset)
        return traces[name]

    def sampler(self) -> Sampler:
        size = self.model.vocab_size
        elsewhere = self.cache.sampler
        return Sampler(size, elsewhere() if elsewhere else traced_parts(size, tuple(self.suppressed), self.opset))

    def _log_prob(self) -> onnx.GraphProto:
        rows = _rows(self.model.vocab_size)
        return self._traced(FunctionModule(log_prob), {"logits": rows, "token": _TOKEN}, ["log_prob"])

    def step(self) -> onnx.GraphProto:
        """One token: the logits of the next one, and the next states."""
        return self._step

    @cached_property
    def _step(self) -> onnx.GraphProto:
        graph = self.gated_step
        return with_outputs(graph, [output.name for output in graph.output if not output.name.startswith(GATE)])

    @cached_property
    def gated_step(self) -> onnx.GraphProto:
        """step.onnx: one token, and what its gates were."""
        module = GatedStep(self.model)
        return self._trace(module, {"token": _TOKEN}, ["logits", *(f"{GATE}{name}" for name in module.gates)])

    def side(self, side: str) -> onnx.GraphProto:
        """One token on one side of a cloze model."""
        return self._trace(SideStep(self.model, side), {"token": _TOKEN}, [])

    def decode(self) -> onnx.GraphProto:
        """The outputs of both sides of a cloze model → logits."""
        sides = bidirectional(self.model.recurrence).directions
        outputs = {side: _rows(recurrence.output_size) for side, recurrence in sides.items()}
        return self._trace(Decode(self.model), outputs, ["logits"])

    def read(self) -> onnx.GraphProto:
        """One token of a prompt, in the rows that are active."""
        return self._trace(Read(self.model), {"token": _TOKEN, "active": _ACTIVE}, [])

    def scorer(self) -> onnx.GraphProto:
        """scorer.onnx: the log-probability of every token but the first, given those before it."""
        graph = Graph()
        tokens = graph.input("tokens", INT, ["batch", "time"])
        length = graph.input("length", INT, ["batch"])
        state = self.state_inputs(graph, length)
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
            results = body.inline(score, inputs | prefixed(values))
            return next_state(results), [(results["log_prob"], FLOAT, ["batch"])]

        final, (log_prob,) = graph.loop(graph.op("Sub", time, one), state, score_one)
        graph.output(graph.op("Transpose", log_prob, perm=[1, 0]), "log_prob", FLOAT, ["batch", "scored_time"])
        self.state_outputs(graph, final)
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
        scaled = sampler.cut(graph, sampler.scale(graph, logits, settings), settings)
        drawn = sampler.draw(graph, scaled, sampler.thresholds(graph, numbers, settings))
        log_prob = graph.inline(self._log_prob(), {"logits": logits, "token": drawn})
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
        outputs = {}
        for side, recurrence in bidirectional(self.model.recurrence).directions.items():
            text = backwards if side == "right" else tokens
            step, output, width = self.side(side), f"{side}.output", recurrence.output_size

            def read_one(
                body: Graph,
                trip: str,
                values: dict[str, str],
                step: onnx.GraphProto = step,
                text: str = text,
                collected: tuple[str, int] = (output, width),
            ) -> Trip:
                token = body.op("Gather", text, trip, axis=1)
                results = body.inline(step, {"token": token} | prefixed(values))
                # What predicts a token is the output before it was read.
                return next_state(results), [(values[collected[0]], FLOAT, ["batch", collected[1]])]

            _, (known,) = graph.loop(time, self._zero_state(graph, length, side), read_one)
            outputs[side] = (graph.op("Transpose", known, perm=[1, 0, 2]), width)
        right, width = outputs["right"]
        outputs["right"] = (graph.op("ReverseSequence", right, length, batch_axis=0, time_axis=1), width)
        rows = {side: graph.op("Reshape", y, graph.constant([-1, width])) for side, (y, width) in outputs.items()}
        return graph.inline(self.decode(), rows)["logits"]

    def _text_inputs(self, graph: Graph) -> tuple[str, str]:
        return graph.input("tokens", INT, ["batch", "time"]), graph.input("length", INT, ["batch"])

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


def with_outputs(graph: onnx.GraphProto, outputs: list[str]) -> onnx.GraphProto:
    """What of a graph some of its outputs are computed by."""
    needed = ancestors(graph, set(outputs))
    part = onnx.GraphProto(name=graph.name, input=graph.input)
    part.node.extend(node for node in graph.node if needed.intersection(node.output))
    part.initializer.extend(weight for weight in graph.initializer if weight.name in needed)
    part.output.extend(output for output in graph.output if output.name in outputs)
    return part


_TOKEN = torch.zeros(2, dtype=torch.int64)
_ACTIVE = torch.ones(2, dtype=torch.bool)


def _rows(width: int) -> Tensor:
    return torch.zeros(2, width)
