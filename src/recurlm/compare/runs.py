"""One training run of the comparison, a trial's or a seed's: killed and started again, it goes on."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int

from recurlm import model
from recurlm.compare.settings import Compare, Plan
from recurlm.compare.settings import __file__ as settings_code
from recurlm.diagnostics.likelihoods import split_nll
from recurlm.errors import InputError
from recurlm.evaluation.perplexity import score
from recurlm.evaluation.windows import split_windows
from recurlm.model import LanguageModel
from recurlm.progress import progress_bar
from recurlm.storage import read_json, sha256_of, whole_folder, write_json
from recurlm.tokens.files import TokenFile, open_tokens
from recurlm.training.batches import Stream
from recurlm.training.checkpoint import Checkpoint, run_key
from recurlm.training.loop import train
from recurlm.training.run import TrainingBar, copy_tokenizer
from recurlm.training.state import EvalPoint, TrainResult

Settings = dict[str, float]
Stop = Callable[[], bool]


class Texts:
    """The splits that training reads: a run of the comparison opens no others."""

    def __init__(self, folder: Path) -> None:
        self.train, self.validation = (open_tokens(folder, split) for split in ("train", "validation"))
        self.sha256 = sha256_of(folder / "manifest.json")

    @property
    def vocab_size(self) -> int:
        return int(self.train.manifest["vocab_size"])

    def stream(self, plan: Plan, seed: int) -> Stream:
        data = plan.train.data
        moving = seed if data.random_offset else None
        return Stream(self.train.ids, data.batch_size, data.sequence_length, seed=moving)


def key_of(plan: Plan, texts: Texts, **more: Any) -> str:
    """A hash of what shapes the weights of a variant's runs: a change of this code, too, makes them anew."""
    code = [sha256_of(Path(file)) for file in (__file__, settings_code)]
    known = {"plan": plan.sha256, "torch": torch.__version__, "tokens": texts.sha256, "code": code}
    return run_key(known | more, [])


def run(
    plan: Plan,
    texts: Texts,
    settings: Settings,
    budget: Mapping[str, int],
    checkpoint: Path,
    label: str,
    stop: Stop = lambda: False,
) -> tuple[LanguageModel, TrainResult] | None:
    """Train from a seed, and return the weights best on validation with their curve; None if the run diverged.

    Args:
        budget: `seed`, `tokens` to train on, and `evals` of the validation split.
        checkpoint: a file, kept if `stop` says so or the process is killed, and then gone on from.
        label: of the progress bar.

    Raises:
        InputError: the text is too short, or memory is.
        StoppedError: `stop` said so.
    """
    seed, stream = budget["seed"], texts.stream(plan, budget["seed"])
    config = plan.configure(settings, seed, budget["tokens"] / stream.tokens, budget["evals"])
    torch.manual_seed(seed)
    network = model.build(plan.variant, config[0], texts.vocab_size).to(model.best_device(config[1].device))
    key = key_of(plan, texts, settings=settings, budget=dict(budget))
    saved = Checkpoint(checkpoint, key, config[1].checkpoint.every_seconds)
    special = texts.train.manifest["special"]

    def evaluate(network: LanguageModel) -> float:
        return nats_per_token(network, texts.validation, plan)

    try:
        with TrainingBar(label, config[1], stream, None) as bar:
            result = train(network, stream, special, config[1], config[0], evaluate, bar.update, saved, stop)
    except InputError as error:
        if not str(error).startswith("training diverged"):
            raise
        result = None
    saved.remove()
    return None if result is None or not math.isfinite(result.best.validation_loss) else (network, result)


def nats_per_token(network: LanguageModel, split: TokenFile, plan: Plan) -> float:
    """The validation loss, by the windows of `train.evaluation`."""
    windows = plan.train.evaluation
    sizes = (windows.window_tokens, windows.context_tokens, windows.batch_size)
    nats, tokens = score(network, split.ids, split.starts, *sizes)
    return nats / tokens


# Training at the best settings from every seed, and the score of each on the test split.


def train_seeds(compare: Compare, plan: Plan, stop: Stop = lambda: False) -> None:
    """Train a variant from every seed into models/<variant>/<seed>: the model, and its curve.

    A seed that is done is kept in running/ until all are: DVC empties the folder of a stage that it begins again.

    Raises:
        InputError: a run diverges.
        StoppedError: `stop` said so; what was done is kept.
    """
    root, texts = compare.folder, Texts(compare.folder / "tokens")
    settings, running = read_json(root / f"tuned/{plan.variant}.json")["best"], root / "running" / plan.variant
    for seed in compare.train.seeds:
        budget = {"seed": seed, "tokens": compare.train.tokens, "evals": compare.train.num_evals}
        key, folder = key_of(plan, texts, settings=settings, budget=budget), running / str(seed)
        if folder.is_dir() and read_json(folder / "key.json") == key:
            continue
        label = f"{plan.variant}, seed {seed}"
        trained = run(plan, texts, settings, budget, running / f"{seed}.safetensors", label, stop)
        if trained is None:
            raise InputError(f"compare: '{plan.variant}' diverged from seed {seed}: lower tune.space's rates")
        with whole_folder(folder) as partial:
            origin = copy_tokenizer(root / "tokens", partial)
            model.save(partial, trained[0], plan.variant, plan.configure(settings, seed, 1.0, 1)[0], origin)
            curve = pd.DataFrame(trained[1].curve, columns=EvalPoint._fields)
            curve.to_csv(partial / "curve.csv", index=False, lineterminator="\n")
            write_json(partial / "key.json", key)
    with whole_folder(root / "models" / plan.variant) as folder:
        for seed in compare.train.seeds:
            shutil.copytree(running / str(seed), folder / str(seed))


def score_seeds(compare: Compare, plan: Plan) -> None:
    """Score a variant's models on the test split, and write the nats of each unit to scores/<variant>.json."""
    shutil.rmtree(compare.folder / "running" / plan.variant, ignore_errors=True)  # DVC has the models now
    test, result = open_tokens(compare.folder / "tokens", "test"), dict[str, list[float]]()
    unit, boundaries = units(test, plan, compare.score.min_documents)
    with progress_bar(f"score {plan.variant}", len(compare.train.seeds), "seed") as bar:
        for seed in compare.train.seeds:
            trained = model.load(compare.folder / "models" / plan.variant / str(seed))
            scores = split_nll(trained, test.ids, test.starts, plan.evaluate)
            by_unit = np.add.reduceat(np.where(scores.text, scores.nats.astype(np.float64), 0), boundaries[:-1])
            result[str(seed)] = [round(value, 6) for value in by_unit.tolist()]
            bar.update()
    state = sum(math.prod(shape) for shape in trained.recurrence.state_spec.values())
    record = {
        "variant": plan.variant,
        "parameters": model.count_parameters(trained),
        "state_bytes": 4 * state,
        "unit": unit,
        "bytes": test.counts["bytes"],
        "tokens": np.add.reduceat(scores.text.astype(np.int64), boundaries[:-1]).tolist(),
        "nats": result,
    }
    write_json(compare.folder / f"scores/{plan.variant}.json", record)


def units(test: TokenFile, plan: Plan, min_documents: int) -> tuple[str, Int[np.ndarray, "boundaries"]]:
    """What is drawn again for the intervals: documents, or the windows of few long ones; and where they begin."""
    starts = np.asarray(test.starts, dtype=np.int64)
    if len(starts) > min_documents:
        return "document", starts
    windows = split_windows(starts, plan.evaluate.window_tokens, plan.evaluate.context_tokens)
    return "window", np.append(windows.first, starts[-1])
