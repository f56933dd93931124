"""generator.onnx: read the prompts, then draw and read token after token, all in one call.

Prompts are moved to the right, so that rows of different lengths end together:

    prompt          aligned         read in the first loop     the second loop starts with
    a b c ·         · a b c            · a b                    c
    d e · ·         · · d e            · · d                    e

The second loop stands here twice: a plain one, and one for calls that ask for top-k, top-p, min-p, a repetition penalty
or a stop token. Of these two one makes no trip.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from recurlm.export.assemble import Carried, Graph, Shape, Trip
from recurlm.export.graphs import Builder, Values, next_state, prefixed
from recurlm.export.sampler import Settings

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
NO_TOKEN = -1  # no stop token; and what stands behind the end of a row


class GeneratorGraph:
    """Builds generator.onnx."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.read = builder.read()
        self.size = builder.model.vocab_size
        self.graph = graph = Graph()
        self.prompt = graph.input("prompt", INT, ["batch", "prompt_time"])
        self.length = graph.input("prompt_length", INT, ["batch"])
        self.new_tokens = graph.input("max_new_tokens", INT, [])
        temperature = graph.input("temperature", FLOAT, ["batch"])
        top_k = graph.input("top_k", INT, ["batch"])
        top_p = graph.input("top_p", FLOAT, ["batch"])
        uniform = graph.input("uniform", FLOAT, ["batch", "uniform_time"])
        min_p = self._for_all("min_p", FLOAT)
        self.penalty = self._for_all("repetition_penalty", FLOAT)
        self.stop = self._for_all("stop_token", INT)
        seen = graph.input("seen", BOOL, ["seen_batch", self.size])
        self.seen = builder.for_batch(graph, seen, self.length, (self.size,))
        self.state = builder.state_inputs(graph, self.length)
        self.sampler = builder.sampler()
        self.settings: Settings = self.sampler.settings(graph, temperature, top_k, top_p, min_p)
        thresholds = self.sampler.thresholds(graph, uniform, self.settings)
        # [time, batch, 1]: what one trip reads lies together.
        turned = graph.op("Transpose", thresholds, perm=[1, 0])
        self.thresholds = graph.op("Unsqueeze", turned, graph.constant([2]))

    def proto(self) -> onnx.GraphProto:
        graph, none = self.graph, self.graph.constant(NO_TOKEN)
        penalizes = graph.any(graph.op("Not", graph.op("Equal", self.penalty, graph.constant(1.0, np.float32))))
        stops = graph.any(graph.op("Not", graph.op("Equal", self.stop, none)))
        special = graph.op("Or", graph.op("Or", self.settings.cuts, penalizes), stops)
        # No If around the loops: onnxruntime prepares the weights of a loop's products only where it is in no branch.
        zero = graph.constant(0)
        first = self._read()
        after, plain = self._draw(first, graph.op("Where", special, zero, self.new_tokens))
        trips = graph.op("Where", special, self.new_tokens, zero)
        final, drawn = self._draw_with(after | {"seen": first["seen"]}, trips, penalizes, stops)
        kind: tuple[int, Shape] = (INT, ["new_time", "batch"])
        (drawn,) = graph.choose(special, lambda branch: [drawn], lambda branch: [plain], [kind])
        # What a loop without a trip collects has lost its batch.
        shape = graph.op("Concat", graph.constant([-1]), graph.op("Shape", self.length), axis=0)
        tokens = graph.op("Transpose", graph.op("Reshape", drawn, shape), perm=[1, 0])
        graph.output(tokens, "tokens", INT, ["batch", "new_time"])
        absent = graph.op("Equal", tokens, none)
        present = graph.op("Cast", graph.op("Not", absent), to=INT)
        graph.output(graph.op("ReduceSum", present, graph.constant([1]), keepdims=0), "length", INT, ["batch"])
        # In place of no token one that was seen before.
        last = graph.op("Unsqueeze", first["token"], graph.constant([1]))
        seen = self._see(first["seen"], graph.op("Where", absent, last, tokens))
        graph.output(seen, "next_seen", BOOL, ["batch", self.size])
        self.builder.state_outputs(graph, final)
        return graph.proto("generator")

    def _for_all(self, name: str, kind: int) -> str:
        """An input that may have one value for all rows."""
        value = self.graph.input(name, kind, [f"{name}_batch"])
        return self.builder.for_batch(self.graph, value, self.length, ())

    def _read(self) -> Values:
        """Read the prompts but for their last tokens: what the second loop carries at first."""
        graph = self.graph
        time = graph.op("Gather", graph.op("Shape", self.prompt), graph.constant(1))
        last = graph.op("Sub", time, graph.constant(1))
        padding = graph.op("Sub", time, self.length)
        position = graph.op("Range", graph.constant(0), time, graph.constant(1))
        shifted = graph.op("Sub", position, graph.op("Unsqueeze", padding, graph.constant([1])))
        aligned = graph.op("GatherElements", self.prompt, graph.op("Max", shifted, graph.constant(0)), axis=1)
        read = self.read

        def read_one(body: Graph, trip: str, values: Values) -> Trip:
            token = body.op("Gather", aligned, trip, axis=1)
            active = body.op("GreaterOrEqual", trip, padding)
            return next_state(body.inline(read, {"token": token, "active": active} | prefixed(values))), []

        after, _ = graph.loop(last, self.state, read_one)
        # What stands before a shorter prompt is its own first token, which is of the text anyway.
        return after | {"token": graph.op("Gather", aligned, last, axis=1), "seen": self._see(self.seen, aligned)}

    def _see(self, seen: str, tokens: str) -> str:
        """The tokens seen so far, and those of [batch, time]."""
        yes = self.graph.op("Expand", self.graph.constant([[True]], np.bool_), self.graph.op("Shape", tokens))
        return self.graph.op("ScatterElements", seen, tokens, yes, axis=1)

    def _carried(self, first: Values, more: Carried) -> Carried:
        carried: Carried = {"token": (first["token"], INT, ["batch"]), **more}
        return carried | {name: (first[name], FLOAT, shape) for name, (_, _, shape) in self.state.items()}

    def _draw(self, first: Values, trips: str) -> tuple[Values, str]:
        """The plain loop: what is carried on from it, and the drawn tokens [time, batch]."""
        graph = self.graph
        step = self.builder.step

        def draw_one(body: Graph, trip: str, values: Values) -> Trip:
            token = values.pop("token")
            results = body.inline(step, {"token": token} | prefixed(values))
            weight = self.sampler.weights(body, results["logits"], self.settings)
            drawn = self.sampler.draw(body, weight, body.op("Gather", self.thresholds, trip, axis=0))
            return {"token": drawn} | next_state(results), [(drawn, INT, ["batch"])]

        final, (drawn,) = graph.loop(trips, self._carried(first, {}), draw_one)
        return final, drawn

    def _draw_with(self, first: Values, trips: str, penalizes: str, stops: str) -> tuple[Values, str]:
        """The loop with all that a call may ask for; its values are those of the plain one."""
        graph = self.graph
        step = self.builder.step
        no = graph.op("Expand", graph.constant([False], np.bool_), graph.op("Shape", self.length))
        more: Carried = {
            "seen": (first["seen"], BOOL, ["batch", self.size]),
            "ended": (no, BOOL, ["batch"]),
            "all_ended": (graph.constant(False, np.bool_), BOOL, []),
        }

        def draw_one(body: Graph, trip: str, values: Values) -> Trip:
            token, seen, ended, _ = (values.pop(name) for name in ("token", *more))
            results = body.inline(step, {"token": token} | prefixed(values))
            logits, seen = body.choose(
                penalizes,
                lambda branch: self._penalize(branch, results["logits"], seen, token),
                lambda branch: [results["logits"], seen],
                [(FLOAT, self.sampler.shape), (BOOL, ["batch", self.size])],
            )
            kept = self.sampler.cut(body, self.sampler.weights(body, logits, self.settings), self.settings)
            drawn = self.sampler.draw(body, kept, body.op("Gather", self.thresholds, trip, axis=0))
            after = next_state(results)
            kinds: list[tuple[int, Shape]] = [(INT, ["batch"]), (INT, ["batch"]), (BOOL, ["batch"]), (BOOL, [])]
            kinds += [(FLOAT, shape) for _, _, shape in self.state.values()]
            carried, output, over, all_over, *states = body.choose(
                stops,
                lambda branch: self._stop(branch, token, drawn, ended, values, after),
                lambda branch: [drawn, drawn, ended, branch.constant(False, np.bool_), *after.values()],
                kinds,
            )
            flags = {"seen": seen, "ended": over, "all_ended": all_over}
            return {"token": carried, **flags, **dict(zip(after, states, strict=True))}, [(output, INT, ["batch"])]

        final, (drawn,) = graph.loop(trips, self._carried(first, more), draw_one, until="all_ended")
        return final, drawn

    def _penalize(self, graph: Graph, logits: str, seen: str, token: str) -> list[str]:
        seen = self.sampler.remember(graph, seen, token)
        return [self.sampler.penalize(graph, logits, seen, self.penalty), seen]

    def _stop(self, graph: Graph, token: str, drawn: str, ended: str, before: Values, after: Values) -> list[str]:
        """A row that has ended keeps its last token and its state, and outputs NO_TOKEN."""
        carried = graph.op("Where", ended, token, drawn)
        output = graph.op("Where", ended, graph.constant(NO_TOKEN), drawn)
        over = graph.op("Or", ended, graph.op("Equal", drawn, self.stop))
        states = []
        for name, value in after.items():
            rank = len(self.state[name][2])
            rows = graph.op("Unsqueeze", ended, graph.constant(list(range(1, rank))))
            states.append(graph.op("Where", rows, before[name], value))
        return [carried, output, over, graph.all(over), *states]
