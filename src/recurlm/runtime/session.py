"""One ONNX graph in onnxruntime, with the recurrent state that goes in as `state.<name>` and comes out as
`next_state.<name>`.

    session = GraphSession("data/graphs/lstm/fp32/step.onnx", {"layer0.h": (512,), "layer0.c": (512,)})
    results, state = session.run(["logits"], {"token": np.array([5])}, session.zero_state(1))
    results, state = session.run(["logits"], {"token": np.array([7])}, state)
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from recurlm.errors import InputError

State = dict[str, Any]  # name → float32 [batch, *shape of one sequence's state]
STATE, NEXT_STATE = "state.", "next_state."
MAX_THREADS_PER_CPU = 4  # onnxruntime's threads spin: some more than the processors are slow, and thousands hang
OF_VOCABULARY = ("logits", "seen", "next_seen")  # inputs and outputs with a number for each token

TOKENS = ("token", "tokens", "prompt", "uniform")  # inputs with a value for each token
# What an input of generator.onnx is for all rows where the caller does not say.
DEFAULTS = {"min_p": np.float32(0), "repetition_penalty": np.float32(1), "stop_token": np.int64(-1), "seen": np.False_}
# The type of each input and output that this project names; states are float32 too.
FLOAT = ("temperature", "top_p", "uniform", "min_p", "repetition_penalty", "logits", "log_prob")
INT = (*TOKENS[:3], "length", "prompt_length", "max_new_tokens", "top_k", "stop_token", "filled")
TYPES = {
    **dict.fromkeys(FLOAT, "tensor(float)"),
    **dict.fromkeys(INT, "tensor(int64)"),
    **dict.fromkeys(("seen", "next_seen"), "tensor(bool)"),
}
# A graph that takes longer is stopped.
CALL_SECONDS, TOKEN_SECONDS = 60.0, 1.0
POLL_SECONDS = 0.25

Shapes = Mapping[str, tuple[Any, ...]]  # of one row, by name


class GraphError(InputError):
    """A graph that was loaded does not run to its end: the bundle is at fault, not what was asked of it."""


class GraphSession:
    """An onnxruntime session of one graph. It keeps nothing of a call: any number of threads may use it at once."""

    def __init__(
        self,
        path: str | Path,
        state_spec: Mapping[str, Sequence[int]],
        threads: int | None = None,
        inputs: Set[str] | None = None,
        vocab_size: int | None = None,
        outputs: Set[str] = frozenset(),
    ) -> None:
        """Load the graph.

        Args:
            state_spec: name → shape of one sequence's state, of any rank; empty for a graph without state.
            threads: within one operator; None means one.
            inputs: all inputs that the graph should have, apart from the state; None checks only the state.
            vocab_size: the width that its logits should have, if it has any, and one more than the largest of its
                tokens; None checks nothing.
            outputs: that the graph should have, among others.

        Raises:
            InputError: the file is no graph, has other inputs, outputs, types, states or widths, or is too new for
                this onnxruntime.
        """
        check_threads(threads)
        self.vocab_size = vocab_size
        self.path = Path(path)
        self.state_spec = {name: tuple(shape) for name, shape in state_spec.items()}
        self._session, self._run_options = _load(self.path, threads or 1)
        required = {value.name: tuple(value.shape[1:]) for value in self._session.get_inputs()}
        # In bundles of before a part of the inputs had a default; onnxruntime lists these apart.
        optional = {value.name: tuple(value.shape[1:]) for value in self._session.get_overridable_initializers()}
        results = {value.name: tuple(value.shape[1:]) for value in self._session.get_outputs()}
        self._check(required | optional, results, inputs, outputs)
        self._state_required = any(name.startswith(STATE) for name in required)
        self._defaults = {
            name: np.full((1, *shape[-1:]) if name in OF_VOCABULARY else 1, DEFAULTS[name])
            for name, shape in required.items()
            if name in DEFAULTS
        }
        self.output_names = tuple(
            value.name for value in self._session.get_outputs() if not value.name.startswith(NEXT_STATE)
        )
        self._next_state = [f"{NEXT_STATE}{name}" for name in self.state_spec]

    def zero_state(self, batch: int) -> State:
        """The state before a sequence's first token: float32 zeros [batch, *shape] by name."""
        return {name: np.zeros((batch, *shape), np.float32) for name, shape in self.state_spec.items()}

    def run(
        self, outputs: Sequence[str] | None, feeds: Mapping[str, Any], state: State | None = None
    ) -> tuple[dict[str, Any], State]:
        """Call the graph once; returns its outputs by name, and the next state.

        Args:
            outputs: of `output_names`; None for all of them.
            feeds: the inputs by name, apart from the state; those of DEFAULTS may be left out.
            state: the state before the call; None for zeros.

        Raises:
            GraphError: onnxruntime stops with an error, as at an index that is out of range; the graph did not come to
                an end in a time that grows with the number of tokens; or it gave other tokens than there are.
        """
        names = list(self.output_names if outputs is None else outputs)
        if state is None:
            state = self.zero_state(_batch_size(feeds)) if self._state_required else {}
        values = self._call(
            [*names, *self._next_state],
            {**self._defaults, **feeds, **{f"{STATE}{name}": value for name, value in state.items()}},
        )
        results = dict(zip(names, values, strict=False))
        self._check_results(results, feeds)
        return results, dict(zip(self.state_spec, values[len(names) :], strict=True))

    def _call(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        options = self._run_options()
        options.log_severity_level = 4  # an exception says the same
        sizes = [np.size(value) for name, value in feeds.items() if name in TOKENS]
        seconds = CALL_SECONDS + TOKEN_SECONDS * max(sizes, default=1)
        try:
            with WATCHDOG.limit(options, seconds):
                return list(self._session.run(outputs, feeds, options))
        except Exception as error:
            if options.terminate:
                raise GraphError(f"{self.path}: no result after {seconds:,.0f} s: the graph may have no end") from None
            if not isinstance(error, _errors()):
                raise
            raise GraphError(f"{self.path}: it does not run ({_one_line(error)})") from None

    def _check_results(self, results: Mapping[str, Any], feeds: Mapping[str, Any]) -> None:
        """A text is made of these: a wrong number of them would be a wrong text or score, or an error elsewhere."""
        expected: dict[str, tuple[int, int]] = {}
        if "prompt" in feeds and "max_new_tokens" in feeds:
            expected["tokens"] = (len(feeds["prompt"]), int(feeds["max_new_tokens"]))
        elif "tokens" in feeds:
            expected["filled"] = expected["log_prob"] = np.shape(feeds["tokens"])
        stops = "stop_token" in feeds
        for name in results.keys() & expected.keys():
            shape, (rows, time) = np.shape(results[name]), expected[name]
            # Once all rows have stopped no more are drawn; and a causal model does not predict the first token.
            fewer = time if name == "tokens" and stops else int(name == "log_prob" and "filled" not in results)
            if len(shape) != 2 or shape[0] != rows or not time - fewer <= shape[1] <= time:
                raise GraphError(f"{self.path}: '{name}' has the shape {shape}, expected {(rows, time)}")
        least = -1 if stops else 0  # no token follows one that stops
        for name in results.keys() & {"tokens", "filled"}:
            tokens = results[name]
            for token in (tokens.min(), tokens.max()) if tokens.size and self.vocab_size is not None else ():
                if not least <= token < self.vocab_size:
                    raise GraphError(f"{self.path}: '{name}' holds {token}, and tokens are below {self.vocab_size}")

    def _check(self, shapes: Shapes, results: Shapes, inputs: Set[str] | None, outputs: Set[str]) -> None:
        states = {name.removeprefix(STATE): shape for name, shape in shapes.items() if name.startswith(STATE)}
        next_states = {
            name.removeprefix(NEXT_STATE): shape for name, shape in results.items() if name.startswith(NEXT_STATE)
        }
        others = {name for name in shapes if not name.startswith(STATE)}
        values = [*self._session.get_inputs(), *self._session.get_overridable_initializers()]
        types = {value.name: value.type for value in [*values, *self._session.get_outputs()]}
        carried = dict.fromkeys([name for name in types if name.startswith((STATE, NEXT_STATE))], "tensor(float)")
        widths = [shape[-1:] for name, shape in [*shapes.items(), *results.items()] if name in OF_VOCABULARY]
        if (
            states != self.state_spec
            or next_states != self.state_spec
            or (inputs is not None and others != inputs)
            or not outputs <= results.keys()
            or any(types.get(name, type) != type for name, type in {**TYPES, **carried}.items())
            or (self.vocab_size is not None and any(width != (self.vocab_size,) for width in widths))
        ):
            raise InputError(
                f"{self.path}: not the graph that the JSON file beside it describes: download or export it again"
            )


def check_threads(threads: int | None) -> None:
    """Raises an InputError if it is no number of threads, or more than a small multiple of the processors."""
    most = MAX_THREADS_PER_CPU * (os.cpu_count() or 1)
    if threads is not None and not 1 <= threads <= most:
        raise InputError(f"threads is {threads}: 1 to {most}, {MAX_THREADS_PER_CPU} for each processor")


def pad_batch(sequences: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    """Token ids as int64 [batch, time], padded with 0 at the right, and their lengths [batch]."""
    length = np.array([len(ids) for ids in sequences], np.int64)
    tokens = np.zeros((len(sequences), int(length.max())), np.int64)
    for row, ids in zip(tokens, sequences, strict=True):
        row[: len(ids)] = ids
    return tokens, length


def _load(path: Path, threads: int) -> tuple[Any, Callable[[], Any]]:
    """The session, and what makes options for a call of it."""
    if path.is_file():
        check_graph_file(path)
    import onnxruntime  # here, so that `import recurlm.runtime` is quick

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.use_deterministic_compute = True
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _errors() as error:
        version = onnxruntime.__version__
        raise InputError(f"{path}: onnxruntime {version} cannot run it ({_one_line(error)})") from None
    return session, onnxruntime.RunOptions


def _errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises about a graph: a name in it that is not UTF-8 breaks the message itself."""
    from onnxruntime.capi import onnxruntime_pybind11_state as exceptions

    return (
        exceptions.Fail,
        exceptions.InvalidArgument,
        exceptions.InvalidGraph,
        exceptions.InvalidProtobuf,
        exceptions.NoSuchFile,
        exceptions.NotImplemented,
        exceptions.RuntimeException,
        UnicodeDecodeError,
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _batch_size(feeds: Mapping[str, Any]) -> int:
    return next(len(value) for value in feeds.values() if np.ndim(value))


class Watchdog:
    """Asks calls that last too long to end: a graph's loop may say that it takes 2^62 steps.

    Its thread starts with the first call, and sleeps where none runs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[int, tuple[float, Any]] = {}  # id → the time at which it has to end, and its RunOptions
        self._some = threading.Event()
        self._thread = threading.Thread()

    @contextmanager
    def limit(self, options: Any, seconds: float) -> Iterator[None]:
        """Set `options.terminate` if the block lasts longer; onnxruntime looks at it between two operators."""
        with self._lock:
            self._calls[id(options)] = (time.monotonic() + seconds, options)
            self._some.set()
            if not self._thread.is_alive():  # nor is it after a fork
                self._thread = threading.Thread(target=self._watch, name="recurlm-deadline", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                del self._calls[id(options)]
                if not self._calls:
                    self._some.clear()

    def _watch(self) -> None:
        while True:
            self._some.wait()
            time.sleep(POLL_SECONDS)
            now = time.monotonic()
            with self._lock:
                for end, options in self._calls.values():
                    if now > end:
                        options.terminate = True


WATCHDOG = Watchdog()


# What a graph's file asks for before onnxruntime loads it. Plain Python, since the runtime has no onnx package: an ONNX
# file is a protocol buffer, fields of a number, a wire type and a value, where a message is a field of bytes.

# Message → its fields that are messages too, by number (onnx.proto), as far as they lead to tensors.
MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # fields of a tensor
MAX_DEPTH = 64
TAG_BYTES, TAG_BITS = 5, 32
VARINT, BYTES = 0, 2
FIXED = {1: 8, 5: 4}  # wire type → bytes


def check_graph_file(path: Path) -> None:
    """Refuse a graph whose weights lie in another file: its name may lead anywhere, and nothing vouches for its bytes.

    Raises:
        InputError: the file names external data, or is no ONNX file.
    """
    try:
        with path.open("rb") as file:
            external = _has_external_data(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (LookupError, ValueError):
        raise InputError(f"{path}: not an ONNX file: download or export it again") from None
    if external:
        raise InputError(f"{path}: its weights lie in another file, which recurlm does not read: export it in one file")


def _has_external_data(file: memoryview) -> bool:
    waiting = [("model", file, 0)]
    while waiting:
        kind, message, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        inner = MESSAGES[kind]
        for number, value in _fields(message):
            if kind == "tensor" and (number == EXTERNAL_DATA or (number == DATA_LOCATION and value != 0)):
                return True
            if number in inner and isinstance(value, memoryview):
                waiting.append((inner[number], value, depth + 1))
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The number and value of each field; of fixed-width numbers the bytes."""
    place, end = 0, len(message)
    while place < end:
        begin = place
        tag, place = _varint(message, place)
        # onnxruntime keeps the low 32 bits of a tag: a longer one would be another field there than here.
        if place - begin > TAG_BYTES or tag >> TAG_BITS or tag >> 3 == 0:
            raise ValueError("no tag")
        wire_type = tag & 7
        value: int | memoryview
        if wire_type == VARINT:
            value, place = _varint(message, place)
        else:
            size, place = _varint(message, place) if wire_type == BYTES else (FIXED[wire_type], place)
            value = message[place : place + size]
            place += size
            if place > end:
                raise ValueError("cut off")
        yield tag >> 3, value


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """A number in groups of 7 bits, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("too long a number")
