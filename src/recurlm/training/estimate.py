"""What the training of a variant takes: its memory and least time before it begins, and then the time that is left.

A model is built on torch's meta device, which allocates nothing, with two layers and with three: all counts grow by the
same amount with each layer more, so that those of ten thousand layers are found as quickly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from recurlm import model
from recurlm.config import ModelConfig, TrainConfig
from recurlm.errors import InputError
from recurlm.model import LanguageModel
from recurlm.progress import say
from recurlm.training.batches import Stream
from recurlm.training.optimizer import TIMES

FIRST_SECONDS = 3.0  # of training, after which the time that is left is said
FORWARD_AND_BACKWARD = 3  # times the products of the way forward
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # a container's memory; "max" where it has the machine's


@dataclass(frozen=True)
class Work:
    """The size of a variant's training run."""

    parameters: int
    bytes: int
    """Of memory, at least: weights, gradients, the optimizer's state, the best weights, a window's features."""
    steps: int
    operations: float
    """Multiplications and additions of the whole run, evaluations included."""


def work_of(
    name: str, variant: ModelConfig, train: TrainConfig, vocab_size: int, stream: Stream, validation_tokens: int
) -> Work | None:
    """The work of a run; None if the cell cannot be built on the meta device.

    Raises:
        InputError: a size is beyond what torch can count, or the block does not describe a model.
    """
    try:
        few, more = (_counts(name, variant, layers, vocab_size, train, stream) for layers in (2, 3))
        if variant.layers < 2:
            few, more = _counts(name, variant, 1, vocab_size, train, stream), few
    except RuntimeError as error:
        if "overflow" in str(error):
            raise InputError(f"params.yaml: 'variants.{name}' is larger than any machine ({error})") from None
        return None
    layers = max(0, variant.layers - 2)
    parameters, products, update, features = (a + layers * (b - a) for a, b in zip(few, more, strict=True))
    steps = math.ceil(train.data.epochs * len(stream))
    # Muon holds as much as AdamW: two numbers a weight. An average of the weights is one more.
    copies = 5 + (train.regularization.average != "none")
    step = 2 * (FORWARD_AND_BACKWARD * products * stream.tokens / len(stream) + update)
    evaluations = 2 * products * validation_tokens * train.evaluation.num_evals
    return Work(int(parameters), int(4 * copies * parameters + 2 * features), steps, steps * step + evaluations)


def _counts(
    name: str, variant: ModelConfig, layers: int, vocab_size: int, train: TrainConfig, stream: Stream
) -> tuple[float, float, float, float]:
    """Parameters, multiply-adds forward per token and of an optimizer's update, and features of a window."""
    with torch.device("meta"):
        network = model.build(name, variant.model_copy(update={"layers": layers}), vocab_size)
    tables = {"embedding.weight", "decoder.weight"}  # a row of the one is looked up, the other may be sampled
    products = sum(
        matrix.numel() for key, matrix in network.named_parameters() if matrix.ndim == 2 and key not in tables
    )
    window = stream.batch_size * min(train.data.sequence_length, stream.length)
    negatives = train.sampled_softmax
    products += network.decoder.in_features * (min(vocab_size, window + negatives) if negatives else vocab_size)
    features = window * (network.embedding.embedding_dim + network.recurrence.output_size)
    return model.count_parameters(network), products, _update(network, train), features


def _update(network: LanguageModel, train: TrainConfig) -> float:
    """Multiply-adds of Muon's Newton–Schulz iterations in a step."""
    if train.optimizer.name != "muon":
        return 0.0
    shapes = [sorted(matrix.shape) for matrix in network.recurrence.parameters() if matrix.ndim == 2]
    return sum(TIMES * (2 * m * m * n + m**3) for m, n in shapes) / train.optimizer.orthogonalize_every


def check_memory(name: str, work: Work, device: torch.device) -> None:
    """Refuse what cannot fit.

    Raises:
        InputError: the run needs more memory than the machine has.
    """
    has = _memory_of(device)
    if work.bytes > has:
        raise InputError(
            f"params.yaml: variant '{name}' has {work.parameters:,} parameters and needs at least {memory(work.bytes)} "
            f"of memory to train, and this machine has {memory(has)}: lower hidden_size, embedding_size or layers, or "
            "train.data.batch_size"
        )


def _memory_of(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    has = psutil.virtual_memory().total + psutil.swap_memory().total
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else ""
    return min(has, int(limit)) if limit.isdigit() else has


def say_before(name: str, work: Work, device: torch.device, precision: str) -> None:
    """One line about a run that is about to begin."""
    rate = _product_rate(device, torch.bfloat16 if precision == "bf16" else torch.float32)
    say(
        f"train {name}: {work.parameters:,} parameters, {work.steps:,} steps: at least {memory(work.bytes)} of memory, "
        f"and {duration(work.operations / rate)} for its products alone"
    )


def _product_rate(device: torch.device, dtype: torch.dtype, size: int = 1024) -> float:
    """Operations a second of a product of two square matrices."""
    matrix = torch.ones(size, size, device=device, dtype=dtype)
    _ = (matrix @ matrix)[0, 0].item()  # kernels are chosen at the first call
    started = time.perf_counter()
    _ = (matrix @ matrix)[0, 0].item()
    return 2 * size**3 / (time.perf_counter() - started)


class TimeLeft:
    """Says once, after the first seconds, how long this run goes on, and how long others would take."""

    def __init__(self, name: str, work: Work, others: Callable[[], Mapping[str, Work]]) -> None:
        """`others`: the variants that wait to be trained."""
        self.name, self.work, self.others = name, work, others
        self._started: float | None = None
        self._steps = 0
        self._said = False

    def after_step(self, done: float) -> None:
        """Measure from the end of the first step on, which takes longer; `done` is the share of the run."""
        if self._said:
            return
        if self._started is None:
            self._started = time.perf_counter()
            return
        self._steps += 1
        seconds = time.perf_counter() - self._started
        if seconds < FIRST_SECONDS:
            return
        self._said = True
        per_step = seconds / self._steps
        seconds_of_run = self.work.steps * per_step
        line = f"train {self.name}: about {duration((1 - done) * seconds_of_run)} left at {1 / per_step:.3g} steps/s"
        others = (
            f"{name} about {duration(work.operations / self.work.operations * seconds_of_run)}"
            for name, work in self.others().items()
        )
        if waiting := ", ".join(others):
            line += f"; not trained yet, at as many operations a second: {waiting}"
        say(line)


def duration(seconds: float) -> str:
    """A time in words, to two digits: "40 seconds", "3.2 hours"."""
    for unit, size in (("years", 365 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60), ("seconds", 1)):
        if seconds >= 2 * size:
            return f"{float(f'{seconds / size:.2g}'):,.10g} {unit}"
    return "a second or two"


def memory(size: float) -> str:
    """Bytes in words, to two digits."""
    unit, value = ("GB", size / 1e9) if size >= 1e9 else ("MB", max(size / 1e6, 1))
    return f"{float(f'{value:.2g}'):,.10g} {unit}"
