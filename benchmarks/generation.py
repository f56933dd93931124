"""How fast a bundle generates, beside what people do today, and beside what the machine could do at most.

In turns, in one process, medians over rounds:

    loop            the lesson's: nn.LSTM, called token after token, softmax, torch.multinomial
    exported LSTM   the same model's one step by torch.onnx.export, called from Python, sampled with numpy
    step.onnx       the bundle's one step in fp32, called from Python, sampled with numpy
    generator.onnx  one call, in fp32, int8 and int4, these also where they need not be the same on every machine

A token cannot come sooner than its weights are read: the table has the bytes that a token reads, the rate at which this
machine reads so many bytes again and again, and the fraction of that rate which generator.onnx reaches.

    python benchmarks/generation.py --json benchmarks/results/generation.json
    python benchmarks/generation.py --hidden-size 256 --vocab-size 2048 --repeats 5
"""

from __future__ import annotations

import argparse
import io
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
from torch import nn

from recurlm.config import Export, Precision, Sampling
from recurlm.export.bundle import write_graphs
from recurlm.model import build
from recurlm.verify.sessions import Graphs

BUNDLES: dict[str, tuple[Precision, Export]] = {
    "fp32": ("fp32", PARAMS.export),
    "int8": ("int8", PARAMS.export),
    "int4": ("int4", PARAMS.export),
}
FROM_SOFTMAX = Sampling(temperature=1.0, top_k=0, top_p=1.0)
CALLED = ("loop", "exported LSTM", "step.onnx")
TOKENS = {1: 200, 8: 80, 64: 24}  # batch → tokens of a row in a measurement; the loops make a fifth of them
PROMPT = 32
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


def weights_read(path: Path) -> int:
    """Bytes of weights that one token at batch 1 reads: all of each product's, and one row of each table.

    Of the graph as onnxruntime has it in memory, where weights of 4 bits were unpacked.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = f"{folder}/loaded.onnx"
        onnxruntime.InferenceSession(path, options)
        graph = onnx.load(options.optimized_model_filepath).graph
    sizes = {weight.name: len(weight.raw_data) for weight in graph.initializer}
    rows = {weight.name: weight.dims[0] for weight in graph.initializer if weight.dims}
    total = 0
    for node in graph.node:
        for value in node.input:
            if value in sizes:
                total += sizes[value] // (rows[value] if node.op_type == "Gather" else 1)
    return total


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


def product_rate(batch: int, hidden: int, repeats: int) -> float:
    """Operations a second of an fp32 product with `batch` rows on one thread."""
    a, b = torch.rand(batch, 2 * hidden), torch.rand(2 * hidden, 4 * hidden)
    with torch_threads(1):
        return 2 * a.numel() * b.shape[1] / min(seconds(lambda: a @ b) for _ in range(20 * repeats))


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
    add_json_option(parser)
    arguments = parser.parse_args()
    torch.manual_seed(1)
    sizes = {"embedding_size": arguments.hidden_size, "hidden_size": arguments.hidden_size, "layers": arguments.layers}
    block = override(PARAMS.variant("lstm"), {**sizes, "concat_layers": False})  # as the lesson's model
    model = build("lstm", block, arguments.vocab_size).eval().requires_grad_(False)
    lesson = Lesson(arguments.vocab_size, arguments.hidden_size, arguments.layers).eval()
    manifest = {"special": SPECIAL, "tokenizer_sha256": "", "kind": "char", "corpus": {}}
    text = np.random.default_rng(0).integers(2, arguments.vocab_size, 20_000)
    figures: dict[str, Any] = {"microseconds_per_token": {}, "onnxruntime": onnxruntime.__version__}

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name, (precision, settings) in BUNDLES.items():
            (root / name).mkdir()
            write_graphs(root / name, "lstm", model, manifest, settings, precision, text)
        for threads in (1, 2):
            graphs = {name: Graphs(root / name, threads) for name in BUNDLES}
            contenders: dict[str, Run] = {
                "loop": loop(lesson),
                "exported LSTM": exported_lstm(lesson, threads),
                "step.onnx": step(graphs["fp32"], model.recurrence.state_spec),
                **{f"generator.onnx {name}": generator(graphs[name]) for name in BUNDLES},
            }
            for batch in TOKENS:
                medians = measure(contenders, batch, threads, arguments.repeats)
                figures["microseconds_per_token"][f"batch {batch}, threads {threads}"] = medians
                print(f"batch {batch}, {threads} thread{'s' * (threads > 1)}: measured", flush=True)
        figures["bundle"] = {name: measure_bundle(root / name, arguments) for name in BUNDLES}
    times = figures["microseconds_per_token"]["batch 1, threads 1"]
    for precision, bundle in figures["bundle"].items():
        bundle["times_the_loop"] = times["loop"] / times[f"generator.onnx {precision}"]
        bundle["times_step.onnx"] = times["step.onnx"] / times[f"generator.onnx {precision}"]
        bundle["times_exported_LSTM"] = times["exported LSTM"] / times[f"generator.onnx {precision}"]
    for threads in (1, 2):
        speeds = {
            b: b / figures["microseconds_per_token"][f"batch {b}, threads {threads}"]["generator.onnx fp32"]
            for b in TOKENS
        }
        figures[f"batch_64_speedup_threads_{threads}"] = speeds[64] / speeds[1]
    figures["fp32_matmul_flops_per_second"] = {
        f"{batch} rows": product_rate(batch, arguments.hidden_size, arguments.repeats) for batch in TOKENS
    }
    print_tables(figures)
    write_figures(arguments.json, figures)


def measure_bundle(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """What a bundle reads, weighs, and takes to begin."""
    size = weights_read(folder / "step.onnx")
    prompt = np.zeros((1, PROMPT), np.int64)
    loads, firsts = [], []
    for _ in range(5):
        graphs = Graphs(folder, threads=1)
        begun = time.perf_counter()
        graphs.generate(prompt[:, :1], np.zeros((1, 1), np.float32), FROM_SOFTMAX)
        loads.append(time.perf_counter() - begun)
        firsts += [
            seconds(lambda g=graphs: g.generate(prompt, np.zeros((1, 1), np.float32), FROM_SOFTMAX))  # type: ignore[misc]
            for _ in range(10)
        ]
    fraction, rate = memory_bound_fraction(generator(graphs), size, arguments.repeats)
    return {
        "memory_bound_fraction": fraction,
        "file_bytes": (folder / "generator.onnx").stat().st_size,
        "weight_bytes_per_token": size,
        "cache_read_bytes_per_second": rate,
        "load_ms": 1e3 * statistics.median(loads),
        "first_token_ms": 1e3 * statistics.median(firsts),
    }


def print_tables(figures: dict[str, Any]) -> None:
    cells = figures["microseconds_per_token"]
    names = list(next(iter(cells.values())))
    print("\nTokens a second, all rows together\n")
    print("| | " + " | ".join(cells) + " |\n|---|" + "---|" * len(cells))
    for name in names:
        speeds = [1e6 * int(cell.split(",")[0].split()[1]) / times[name] for cell, times in cells.items()]
        print(f"| {name} | " + " | ".join(f"{speed:,.0f}" for speed in speeds) + " |")
    print("\ngenerator.onnx, batch 1, one thread\n")
    print(
        "| precision | × the loop | × exported LSTM | × step.onnx | µs a token | weights read | cache reads at | "
        "fraction of the bound | file | load | first token after 32 |\n|---|" + "---|" * 10
    )
    for precision, bundle in figures["bundle"].items():
        spent = cells["batch 1, threads 1"][f"generator.onnx {precision}"]
        print(
            f"| {precision} | {bundle['times_the_loop']:.1f} | {bundle['times_exported_LSTM']:.2f} | "
            f"{bundle['times_step.onnx']:.2f} | {spent:.0f} | {bundle['weight_bytes_per_token'] / 1e6:.2f} MB | "
            f"{bundle['cache_read_bytes_per_second'] / 1e9:.0f} GB/s | {bundle['memory_bound_fraction']:.0%} | "
            f"{bundle['file_bytes'] / 1e6:.1f} MB | {bundle['load_ms']:.0f} ms | "
            f"{bundle['first_token_ms']:.1f} ms |"
        )
    ratios = [f"{figures[f'batch_64_speedup_threads_{threads}']:.1f} with {threads}" for threads in (1, 2)]
    print(f"\nTokens/s at batch 64 over batch 1 in fp32, by threads: {', '.join(ratios)}")
    rates = figures["fp32_matmul_flops_per_second"]
    line = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in rates.items())
    print(f"fp32 product of torch on one thread, GFLOP/s: {line}\n")


if __name__ == "__main__":
    main()
