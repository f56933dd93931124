"""How fast a bundle generates, reads prompts and scores, beside what people do today, and where the microseconds go.

In turns, in one process, medians over rounds:

    loop            the lesson's: nn.LSTM, called token after token, softmax, torch.multinomial
    exported LSTM   the same model's one step by torch.onnx.export, called from Python, sampled with numpy
    step.onnx       the bundle's one step in fp32, called from Python, sampled with numpy
    generator.onnx  one call, in fp32, int8 and int4

A token cannot come sooner than its weights are read: the table has the bytes that a token reads, the rate at which this
machine reads so many bytes again and again, and the fraction of that rate which generator.onnx reaches.

    python benchmarks/generation.py --json benchmarks/results/generation.json --page docs/benchmarks.md
    python benchmarks/generation.py --hidden-size 256 --vocab-size 2048 --repeats 5
"""

from __future__ import annotations

import argparse
import io
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from common import PARAMS, add_json_option, seconds, write_figures
from onnx import TensorProto, helper
from torch import nn

from recurlm.config import Precision, Sampling, override
from recurlm.export.bundle import write_graphs
from recurlm.export.graphs import ExportCache
from recurlm.model import build
from recurlm.verify.sessions import Graphs

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "int4")
FROM_SOFTMAX = Sampling(temperature=1.0, top_k=0, top_p=1.0)
MARKS = "<!-- generation.py -->.*<!-- /generation.py -->"
CALLED = ("loop", "exported LSTM", "step.onnx")
TOKENS = {1: 200, 8: 80, 64: 24}  # batch → tokens of a row in a measurement; the loops make a fifth of them
PROMPT, LONG_PROMPT, SCORED = 32, 1000, (64, 256)  # tokens; SCORED: rows of so many, side by side
SPECIAL = {"bos": 0, "mask": 1, "unk": None, "eol": None}
Run = Callable[[int, int], object]  # (batch, tokens) → whatever


class Lesson(nn.Module):
    """Embedding, nn.LSTM, linear: one step."""

    def __init__(self, vocabulary: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.lstm = nn.LSTM(hidden, hidden, layers, batch_first=True)
        self.decoder = nn.Linear(hidden, vocabulary)

    def forward(self, token: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y, (h, c) = self.lstm(self.embedding(token), (h, c))
        return self.decoder(y[:, -1]), h, c


def loop(lesson: Lesson) -> Run:
    shape = lesson.lstm.num_layers, lesson.lstm.hidden_size

    def run(batch: int, tokens: int) -> None:
        token = torch.zeros(batch, 1, dtype=torch.long)
        h = c = torch.zeros(shape[0], batch, shape[1])
        with torch.inference_mode():
            for _ in range(tokens):
                logits, h, c = lesson(token, h, c)
                token = torch.multinomial(torch.softmax(logits, dim=-1), 1)

    return run


def numpy_draw(logits: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
    weight = np.exp(logits - logits.max(axis=1, keepdims=True)).cumsum(axis=1)
    return (weight < random.random((len(logits), 1)) * weight[:, -1:]).sum(axis=1)


def exported_lstm(lesson: Lesson, threads: int) -> Run:
    """The step that torch.onnx.export makes of the lesson's model, with LSTM nodes."""
    shape = lesson.lstm.num_layers, lesson.lstm.hidden_size
    example = (torch.zeros(2, 1, dtype=torch.long), *(torch.zeros(shape[0], 2, shape[1]) for _ in "hc"))
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        lesson.eval(),
        example,
        input_names=["token", "h", "c"],
        output_names=["logits", "next_h", "next_c"],
        dynamic_shapes=({0: batch}, {1: batch}, {1: batch}),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    file = io.BytesIO()
    onnx.save(program.model_proto, file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)

    def run(batch: int, tokens: int) -> None:
        token = np.zeros((batch, 1), np.int64)
        h = c = np.zeros((shape[0], batch, shape[1]), np.float32)
        for _ in range(tokens):
            logits, h, c = session.run(None, {"token": token, "h": h, "c": c})
            token = numpy_draw(logits, random)[:, None]

    return run


def step(graphs: Graphs, state_shapes: dict[str, tuple[int, ...]]) -> Run:
    random = np.random.default_rng(0)

    def run(batch: int, tokens: int) -> None:
        token = np.zeros(batch, np.int64)
        state = {name: np.zeros((batch, *shape), np.float32) for name, shape in state_shapes.items()}
        for _ in range(tokens):
            logits, state = graphs.step(token, state)
            token = numpy_draw(logits, random)

    return run


def generator(graphs: Graphs) -> Run:
    random = np.random.default_rng(0)

    def run(batch: int, tokens: int) -> None:
        graphs.generate(np.zeros((batch, 1), np.int64), random.random((batch, tokens), np.float32), FROM_SOFTMAX)

    return run


def loaded(path: Path) -> onnx.GraphProto:
    """A graph as onnxruntime has it in memory, where weights of 4 bits were unpacked."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = f"{folder}/loaded.onnx"
        onnxruntime.InferenceSession(path, options)
        return onnx.load(options.optimized_model_filepath).graph


def weights_read(graph: onnx.GraphProto) -> int:
    """Bytes of weights that one token at batch 1 reads: all of each product's, and one row of each table."""
    sizes = {weight.name: len(weight.raw_data) for weight in graph.initializer}
    rows = {weight.name: weight.dims[0] for weight in graph.initializer if weight.dims}
    total = 0
    for node in graph.node:
        for value in node.input:
            if value in sizes:
                total += sizes[value] // (rows[value] if node.op_type == "Gather" else 1)
    return total


def products_alone(graph: onnx.GraphProto, tokens: int) -> Callable[[], object]:
    """Runs the products of one token at batch 1 again and again, in a loop with nothing else."""
    weights = {weight.name: weight for weight in graph.initializer}
    info, int64, boolean = helper.make_tensor_value_info, TensorProto.INT64, TensorProto.BOOL
    given, carried = [info("trip", int64, []), info("go", boolean, [])], [info("on", boolean, [])]
    inputs, feeds = [info("trips", int64, [])], {"trips": np.array(tokens)}
    nodes, results = [helper.make_node("Identity", ["go"], ["on"])], list[onnx.ValueInfoProto]()
    used = set[str]()
    for number, node in enumerate(node for node in graph.node if node.op_type in ("MatMulInteger", "MatMul", "Gemm")):
        whole, (size, width) = node.op_type == "MatMulInteger", weights[node.input[1]].dims
        others, kind = node.input[1:] if whole else node.input[1:2], TensorProto.INT32 if whole else TensorProto.FLOAT
        x, before, first, y = (f"{name}{number}" for name in ("x", "before", "first", "y"))
        nodes.append(helper.make_node("MatMulInteger" if whole else "MatMul", [x, *others], [y]))
        used.update(others)
        inputs += [info(x, TensorProto.UINT8 if whole else kind, [1, size]), info(first, kind, [1, width])]
        feeds |= {x: np.ones((1, size), np.uint8 if whole else np.float32)}
        feeds |= {first: np.zeros((1, width), np.int32 if whole else np.float32)}
        given.append(info(before, kind, [1, width]))
        carried.append(info(y, kind, [1, width]))
        results.append(info(f"last{number}", kind, [1, width]))
    firsts = [value.name for value in inputs if value.name.startswith("first")]
    body = helper.make_graph(nodes, "body", given, carried)
    repeated = helper.make_node("Loop", ["trips", "", *firsts], [result.name for result in results], body=body)
    alone = helper.make_graph([repeated], "products", inputs, results, [weights[name] for name in sorted(used)])
    opsets, version = [helper.make_opsetid("", PARAMS.export.opset)], PARAMS.export.ir_version
    model = helper.make_model(alone, opset_imports=opsets, ir_version=version)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)


def reader(size: int) -> Callable[[], object]:
    """The quickest way found here to read `size` bytes again and again on one thread: work that waits for nothing else.

    It is torch's product of a matrix and a vector, the dot product of two vectors, or a sum."""
    numbers = torch.rand(size // 4)
    matrix, vector = numbers[: size // 4 // 512 * 512].view(-1, 512), torch.rand(512)
    ways: list[Callable[[], object]] = [
        lambda: torch.mv(matrix, vector),
        lambda: torch.dot(numbers, numbers),
        lambda: numbers.sum(),
    ]
    return min(ways, key=lambda way: min(seconds(way) for _ in range(50)))


def memory_bound_fraction(run: Run, size: int, repeats: int) -> tuple[float, float]:
    """How near generation comes to reading its weights alone: the two in turns, and medians.

    Returns:
        The fraction, and the bytes read in a second.
    """
    fractions, rates = [], []
    with torch_threads(1):
        read = reader(size)
        for _ in range(4 * repeats):
            reading = statistics.median(seconds(read) for _ in range(20))
            generating = seconds(lambda: run(1, 100)) / 100
            fractions.append(reading / generating)
            rates.append(size / reading)
    return statistics.median(fractions), statistics.median(rates)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(contenders: dict[str, Run], batch: int, threads: int, repeats: int) -> dict[str, float]:
    """Microseconds a token of one row, medians over rounds in which each contender has its turn."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with torch_threads(threads):
        for number in range(repeats + 1):
            for name, run in contenders.items():
                tokens = TOKENS[batch] // (5 if name in CALLED else 1)
                time.sleep(0.02 if threads == 1 else 0.3)  # until the last one's threads no longer spin
                spent = seconds(lambda run=run, tokens=tokens: run(batch, tokens))  # type: ignore[misc]
                if number:  # the first round warms up
                    times[name].append(1e6 * spent / tokens)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocab-size", type=int, default=84, help="84: the characters of the default corpus")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the tables between the marks of this page")
    add_json_option(parser)
    arguments = parser.parse_args()
    torch.manual_seed(1)
    sizes = {"embedding_size": arguments.hidden_size, "hidden_size": arguments.hidden_size, "layers": arguments.layers}
    block = override(PARAMS.variant("lstm"), {**sizes, "concat_layers": False})  # as the lesson's model
    model = build("lstm", block, arguments.vocab_size).eval().requires_grad_(False)
    lesson = Lesson(arguments.vocab_size, arguments.hidden_size, arguments.layers).eval()
    manifest = {"special": SPECIAL, "tokenizer_sha256": "", "kind": "char", "corpus": {}}
    text = np.random.default_rng(0).integers(2, arguments.vocab_size, 20_000)
    microseconds: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root, cache = Path(temporary), ExportCache()
        for name in PRECISIONS:
            (root / name).mkdir()
            write_graphs(root / name, "lstm", model, manifest, PARAMS.export, name, text, cache)
        for threads in arguments.threads:
            graphs = {name: Graphs(root / name, threads) for name in PRECISIONS}
            contenders: dict[str, Run] = {
                "loop": loop(lesson),
                "exported LSTM": exported_lstm(lesson, threads),
                "step.onnx": step(graphs["fp32"], model.recurrence.state_spec),
                **{f"generator.onnx {name}": generator(graphs[name]) for name in PRECISIONS},
            }
            for batch in TOKENS:
                cell = f"batch {batch}, {threads} thread{'s' * (threads > 1)}"
                microseconds[cell] = measure(contenders, batch, threads, arguments.repeats)
                print(f"{cell}: measured", flush=True)
        bundles = {name: measure_bundle(root / name, arguments) for name in PRECISIONS}
    times = microseconds["batch 1, 1 thread"]
    for precision, bundle in bundles.items():
        spent = bundle["microseconds_per_token"] = times[f"generator.onnx {precision}"]
        for other in CALLED:
            bundle[f"times_{other}"] = times[other] / spent
        bundle["between_microseconds"] = bundle["prompt_microseconds_per_token"] - bundle["products_microseconds"]
        bundle["drawing_microseconds"] = spent - bundle["prompt_microseconds_per_token"]
        bundle["prompt_times_generation"] = spent / bundle["prompt_microseconds_per_token"]
    rates = {
        cell: {name: int(cell.split(",")[0].split()[1]) * 1e6 / spent for name, spent in each.items()}
        for cell, each in microseconds.items()
    }
    figures: dict[str, Any] = {"onnxruntime": onnxruntime.__version__, "tokens_per_second": rates, "bundle": bundles}
    print("\n" + tables(figures))
    write_figures(arguments.json, figures)
    if arguments.page is not None:
        page = arguments.page.read_text(encoding="utf-8")
        arguments.page.write_text(re.sub(MARKS, lambda _: marked(figures), page, count=1, flags=re.S), encoding="utf-8")


def measure_bundle(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """What a bundle reads, weighs, and takes to begin; where its time goes; and how fast it reads and scores."""
    graph = loaded(folder / "step.onnx")
    size, products = weights_read(graph), products_alone(graph, TOKENS[1])
    prompt, none = np.zeros((1, LONG_PROMPT), np.int64), np.zeros((1, 1), np.float32)
    rows = np.zeros(SCORED, np.int64)
    times: dict[str, list[float]] = {"load": [], "first": [], "prompt": [], "score": [], "products": []}
    for _ in range(5):
        graphs = Graphs(folder, threads=1)
        times["load"].append(seconds(lambda g=graphs: g.generate(prompt[:, :1], none, FROM_SOFTMAX)))  # type: ignore[misc]
        for _ in range(arguments.repeats):
            times["first"].append(seconds(lambda g=graphs: g.generate(prompt[:, :PROMPT], none, FROM_SOFTMAX)))  # type: ignore[misc]
    graphs.score(rows[:, :2], np.full(len(rows), 2))  # loads it
    for _ in range(arguments.repeats):
        times["products"].append(seconds(products) / TOKENS[1])
        times["prompt"].append(seconds(lambda: graphs.generate(prompt, none, FROM_SOFTMAX)) / LONG_PROMPT)
        times["score"].append(seconds(lambda: graphs.score(rows, np.full(len(rows), rows.shape[1]))) / rows.size)
    fraction, rate = memory_bound_fraction(generator(graphs), size, arguments.repeats)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "memory_bound_fraction": fraction,
        "file_bytes": (folder / "generator.onnx").stat().st_size,
        "weight_bytes_per_token": size,
        "cache_read_bytes_per_second": rate,
        "load_ms": 1e3 * medians["load"],
        "first_token_ms": 1e3 * medians["first"],
        "prompt_microseconds_per_token": 1e6 * medians["prompt"],
        "scored_tokens_per_second": 1 / medians["score"],
        "products_microseconds": 1e6 * medians["products"],
    }


Column = tuple[str, str, float, str, str]  # of a table of bundles: heading, key, factor, format and unit
FIRST: list[Column] = [
    ("× the loop", "times_loop", 1, ".1f", ""),
    ("× exported LSTM", "times_exported LSTM", 1, ".2f", ""),
    ("× step.onnx", "times_step.onnx", 1, ".2f", ""),
    ("µs a token", "microseconds_per_token", 1, ".0f", ""),
    ("weights read", "weight_bytes_per_token", 1e-6, ".2f", " MB"),
    ("cache reads at", "cache_read_bytes_per_second", 1e-9, ".0f", " GB/s"),
    ("share of the bound", "memory_bound_fraction", 1, ".0%", ""),
    ("file", "file_bytes", 1e-6, ".1f", " MB"),
    ("load", "load_ms", 1, ".0f", " ms"),
    ("first token after 32", "first_token_ms", 1, ".1f", " ms"),
]
SECOND: list[Column] = [
    ("µs: products", "products_microseconds", 1, ".0f", ""),
    ("µs: all between them", "between_microseconds", 1, ".0f", ""),
    ("µs: decoder and drawing", "drawing_microseconds", 1, ".0f", ""),
    ("µs a token of a prompt of 1,000", "prompt_microseconds_per_token", 1, ".0f", ""),
    ("read as fast as generated", "prompt_times_generation", 1, ".2f", " ×"),
    ("tokens scored a second, 64 rows", "scored_tokens_per_second", 1, ",.0f", ""),
]


def tables(figures: dict[str, Any]) -> str:
    """The tables of the page, as Markdown."""
    cells = figures["tokens_per_second"]
    speeds = [[name, *(f"{each[name]:,.0f}" for each in cells.values())] for name in next(iter(cells.values()))]
    bundles = figures["bundle"]
    parts = [
        "Tokens a second, all rows together:",
        table(["", *cells], speeds),
        "*generator.onnx*, one row, one thread:",
    ]
    for columns in (FIRST, SECOND):
        if all(key in bundle for bundle in bundles.values() for _, key, *_ in columns):
            lines = [
                [name, *(f"{bundle[key] * factor:{form}}{unit}" for _, key, factor, form, unit in columns)]
                for name, bundle in bundles.items()
            ]
            parts.append(table(["precision", *(heading for heading, *_ in columns)], lines))
    return "\n\n".join([*parts, *filter(None, [figures.get("note")])])


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, *rows]).replace(
        " |\n", " |\n|---|" + "--:|" * (len(header) - 1) + "\n", 1
    )


def marked(figures: dict[str, Any]) -> str:
    """The part of the page that the run writes."""
    return f"<!-- generation.py -->\n{tables(figures)}\n<!-- /generation.py -->"


if __name__ == "__main__":
    main()
