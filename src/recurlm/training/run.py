"""A training run of the pipeline: from the files of `tokenize` to the files of a trained model."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

import recurlm
from recurlm import model
from recurlm.config import Params, TrainConfig
from recurlm.errors import InputError
from recurlm.evaluation.perplexity import score_windows
from recurlm.evaluation.windows import split_windows
from recurlm.model import LanguageModel
from recurlm.objective import objective_of
from recurlm.progress import progress_bar, say
from recurlm.storage import read_json, sha256_of, whole_folder, write_json
from recurlm.tokens.files import TokenFile, open_tokens
from recurlm.training.batches import Stream
from recurlm.training.checkpoint import Checkpoint, run_key
from recurlm.training.distributed import ALONE, Workers
from recurlm.training.estimate import TimeLeft, Work, check_memory, say_before, work_of
from recurlm.training.journal import Journal
from recurlm.training.loop import count_tokens, train
from recurlm.training.machine import SystemMetrics, out_of_memory_is_bad_input
from recurlm.training.optimizer import precision
from recurlm.training.state import EvalPoint, LogPoint, TrainResult


def train_variant(
    name: str,
    params: Params,
    data: Path,
    stop: Callable[[], bool],
    workers: Workers = ALONE,
    follow: Callable[[Path], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Train one variant on the splits in `data`, and write its model, curve and timings there.

    Args:
        workers: the processes that train; each of them calls this function.
        follow: entered by the first process while the run goes on, with the path of its journal.

    Raises:
        InputError: a split is missing or too short, or the run diverges.
        StoppedError: `stop` said so; the checkpoint is kept.
    """
    model_config, config = params.variant(name), params.train
    training, validation = (open_tokens(data / "tokens", split) for split in ("train", "validation"))
    if validation.counts["tokens"] == 0:
        raise InputError("data/tokens: the validation split has no tokens: add text, or give it a larger share")
    seed = config.seed if config.data.random_offset else None
    stream = Stream(training.ids, config.data.batch_size, config.data.sequence_length, seed=seed)
    device = model.best_device(config.device)
    vocab_size = training.manifest["vocab_size"]

    def work(variant: str) -> Work | None:
        tokens = validation.counts["tokens"]
        return work_of(variant, params.variant(variant), config, vocab_size, stream, tokens)

    own = work(name)
    if own is not None:
        check_memory(name, own, device)
        if workers.first:
            say_before(name, own, device, precision(config.precision, device))
    earlier = None if config.init_from is None else Path(config.init_from)
    if earlier is not None:
        check_folder(earlier, data)
    torch.manual_seed(config.seed)
    with out_of_memory_is_bad_input(config.data.batch_size):
        network = model.build(name, model_config, vocab_size)
        if earlier is not None:
            load_initial_weights(earlier, network, name, training.manifest)
        network.to(device)
    path, key = checkpoint_path(name, data), key_of(name, params, device, data)
    checkpoint = Checkpoint(path, key, config.checkpoint.every_seconds, workers)
    journal = None
    if workers.first:
        journal = Journal(journal_path(name, data), key, name, objective_of(network).metric_prefix)
    system = SystemMetrics()

    def waiting() -> dict[str, Work]:
        sizes = {}
        for other in params.variants:
            try:  # a block that is wrong is told when its own turn comes
                if other != name and not _is_trained(other, params, device, data):
                    sizes[other] = work(other)
            except (InputError, OSError):
                continue
        return {other: size for other, size in sizes.items() if size is not None}

    bar = TrainingBar(name, config, stream, TimeLeft(name, own, waiting) if own else None)
    with bar, follow(journal.path) if journal else nullcontext():

        def on_step(step: int, tokens: int, loss: float) -> None:
            if journal is None:
                return
            bar.update(step, tokens, loss)
            if math.isnan(loss):
                journal.begin(tokens)
                return
            journal.step(step, tokens, loss)
            if sample := system.sample():
                journal.write(step, sample)

        result = train(
            network,
            stream,
            training.manifest["special"],
            config,
            model_config,
            lambda network: validation_loss(network, validation, config, workers),
            on_step,
            checkpoint,
            stop,
            evaluate_sample=lambda network: validation_loss(network, validation, config, workers, sample=True),
            on_log=journal.sample if journal else lambda point: None,
            on_evaluation=journal.validation if journal else lambda point: None,
            workers=workers,
        )
    if journal is None:  # another process writes
        workers.any()
        checkpoint.remove()
        return
    with whole_folder(data / "models" / name) as folder:
        model.save(folder, network, name, model_config, copy_tokenizer(data / "tokens", folder))
        _write_rows(folder / "curve.csv", EvalPoint._fields, result.curve)
        _write_rows(folder / "log.csv", LogPoint._fields, result.log)
    timings = _timings(data / "models" / name, result, device) | {"processes": workers.world, "run_key": key}
    write_json(data / "timings" / f"train-{name}.json", timings)
    journal.close(data / "timings" / f"train-{name}.jsonl")
    workers.any()  # from here on the checkpoints of all machines may go
    checkpoint.remove()


class TrainingBar:
    """The bar of a run; it begins where the run does, which may be in its middle, and ends at its end."""

    def __init__(self, name: str, config: TrainConfig, stream: Stream, time_left: TimeLeft | None) -> None:
        self.name, self.seconds, self.time_left = name, config.machine.progress_seconds, time_left
        self.total = count_tokens(config, stream)
        self.bar: Any = None

    def __enter__(self) -> TrainingBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def update(self, step: int, tokens: int, loss: float) -> None:
        """Take note of `tokens` read since the run began; a loss of NaN means that a checkpoint was loaded."""
        tokens = min(tokens, self.total)  # the last window is read whole
        loaded = math.isnan(loss)
        if self.bar is None:
            if loaded:
                say(f"train {self.name}: goes on from its checkpoint, {tokens / self.total:.0%} of the run")
            begun = tokens if loaded else 0
            self.bar = progress_bar(f"train {self.name}", self.total, "token", self.seconds, initial=begun)
        if loaded:
            return
        self.bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        self.bar.update(tokens - self.bar.n)
        if self.time_left:
            self.time_left.after_step(tokens / self.total)


def _is_trained(name: str, params: Params, device: torch.device, data: Path) -> bool:
    """Whether a variant's model is that of the present parameters, tokens and code."""
    timings = data / "timings" / f"train-{name}.json"
    if not (data / "models" / name).is_dir() or not timings.is_file():
        return False
    return bool(read_json(timings).get("run_key") == key_of(name, params, device, data))


def validation_loss(
    network: LanguageModel, validation: TokenFile, config: TrainConfig, workers: Workers = ALONE, sample: bool = False
) -> float:
    """Nats per token, by the windows of `train.evaluation`: quicker than the stage evaluate, and near it.

    Args:
        sample: on the sample of `train.log`: the same windows at every call, evenly spread over the split.
    """
    settings = config.log if sample else config.evaluation
    both_sides = objective_of(network).both_sides
    windows = split_windows(validation.starts, settings.window_tokens, settings.context_tokens, both_sides)
    if sample:
        windows = windows.sample(config.log.sample_tokens)
    part = (workers.rank, workers.world)
    nats, count = score_windows(network, validation.ids, windows, config.evaluation.batch_size, part=part)
    nats, tokens = workers.sum(nats, count)
    return nats / tokens


def load_initial_weights(folder: Path, network: LanguageModel, name: str, tokens: dict[str, Any]) -> None:
    """Give a fresh model the weights of the one in `folder`.

    Args:
        tokens: the manifest of data/tokens, which names the model whose tokenizer it has.

    Raises:
        InputError: the tokens are of another model's tokenizer, or the model has another shape.
    """
    earlier = model.load(folder)
    model_sha256 = read_json(folder / "model.json")["sha256"]
    if (tokens.get("init_from") or {}).get("model_sha256") != model_sha256:
        raise InputError(
            f"data/tokens: not made for the model of train.init_from, {folder}: dvc repro --force tokenize"
        )
    try:
        network.load_state_dict(earlier.state_dict())
    except RuntimeError:
        raise InputError(
            f"params.yaml: train.init_from, {folder}, has another shape than variant '{name}': give them the same "
            "cell, sizes and layers, and train no other variant (dvc repro verify@NAME)"
        ) from None


def check_folder(folder: Path, data: Path) -> None:
    """Refuse a folder that DVC empties.

    Raises:
        InputError: the folder is one of `data`.
    """
    if folder.resolve().is_relative_to(data.resolve()):
        raise InputError(
            f"params.yaml: train.init_from is {folder}, which DVC deletes before it trains: copy it out of {data} first"
        )


def copy_tokenizer(tokens: Path, folder: Path) -> dict[str, Any]:
    """Put the tokenizer beside a model, and return what model.json says about it and about the earlier model."""
    manifest = read_json(tokens / "manifest.json")
    shutil.copyfile(tokens / "tokenizer.json", folder / "tokenizer.json")
    kept = {"kind": manifest["kind"], "lowercase": manifest["lowercase"], "sha256": manifest["tokenizer_sha256"]}
    return {"tokenizer": kept} | ({"init_from": manifest["init_from"]} if "init_from" in manifest else {})


def checkpoint_path(name: str, data: Path) -> Path:
    """Where a run under way is kept."""
    return data / "checkpoints" / f"{name}.safetensors"


def journal_path(name: str, data: Path) -> Path:
    """What a run under way has told."""
    return data / "checkpoints" / f"{name}.jsonl"


def key_of(name: str, params: Params, device: torch.device, data: Path) -> str:
    """A hash of everything that shapes the weights: a checkpoint of any other run is not loaded."""
    package = Path(recurlm.__file__).parent
    settings = {
        "variant": {name: params.variant(name).model_dump()},
        "train": params.train.model_dump(exclude={"checkpoint", "machine"}),
        "torch": torch.__version__,
        "device": str(device),
        "precision": precision(params.train.precision, device),
    }
    cells = ["base", "compose", "linear", "loop", params.variant(name).cell]
    code = ["training", "evaluation", "model.py", "objective.py", *(f"variants/{file}.py" for file in cells)]
    return run_key(settings, [data / "tokens/manifest.json", *(package / file for file in code)])


def _write_rows(path: Path, names: Sequence[str], rows: Sequence[EvalPoint | LogPoint]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)


def _timings(folder: Path, result: TrainResult, device: torch.device) -> dict[str, Any]:
    return {
        "model_sha256": sha256_of(folder / "model.safetensors"),
        "seconds": result.seconds[result.curve[-1].step],
        "tokens_per_second": result.curve[-1].tokens / result.training_seconds,
        "device": device.type,
        "precision": result.precision,
        "threads": torch.get_num_threads(),
        "points": [{"step": step, "seconds": seconds} for step, seconds in result.seconds.items()],
    }
