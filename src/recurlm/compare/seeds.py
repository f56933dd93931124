"""Training at the best settings from every seed, and the score of each on the test split."""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from recurlm import model
from recurlm.compare.runs import Stop, Texts, key_of, run
from recurlm.compare.settings import Compare, Plan
from recurlm.errors import InputError
from recurlm.evaluation.perplexity import exact, token_nll
from recurlm.evaluation.windows import batches, split_windows
from recurlm.model import LanguageModel
from recurlm.progress import progress_bar
from recurlm.storage import read_json, whole_folder, write_json
from recurlm.tokens.files import TokenFile, open_tokens
from recurlm.training.run import copy_tokenizer
from recurlm.training.state import EvalPoint


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
            _write_curve(partial, trained[1].curve)
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
            nats = test_nats(trained, test, plan)
            by_unit = np.add.reduceat(nats, boundaries[:-1])
            result[str(seed)] = [round(value, 6) for value in by_unit.tolist()]
            bar.update()
    state = sum(math.prod(shape) for shape in trained.recurrence.state_spec.values())
    scores = {
        "variant": plan.variant,
        "parameters": model.count_parameters(trained),
        "state_bytes": 4 * state,
        "unit": unit,
        "bytes": test.counts["bytes"],
        "tokens": np.add.reduceat(_scored(test), boundaries[:-1]).tolist(),
        "nats": result,
    }
    write_json(compare.folder / f"scores/{plan.variant}.json", scores)


def units(test: TokenFile, plan: Plan, min_documents: int) -> tuple[str, Int[np.ndarray, "boundaries"]]:
    """What is drawn again for the intervals: documents, or the windows of few long ones; and where they begin."""
    starts = np.asarray(test.starts, dtype=np.int64)
    if len(starts) > min_documents:
        return "document", starts
    windows = split_windows(starts, plan.evaluate.window_tokens, plan.evaluate.context_tokens)
    return "window", np.append(windows.first, starts[-1])


def test_nats(trained: LanguageModel, test: TokenFile, plan: Plan) -> Float[np.ndarray, "tokens"]:
    """−log p of each token of the test split, by the windows of `evaluate`; 0 at the beginnings of documents."""
    nats = np.zeros(len(test.ids))
    windows = split_windows(test.starts, plan.evaluate.window_tokens, plan.evaluate.context_tokens)
    with exact(trained):
        for batch in batches(test.ids, windows, plan.evaluate.batch_size):
            nats[batch.positions] = token_nll(trained, batch).nats[batch.scored]
    return nats


def _scored(test: TokenFile) -> Int[np.ndarray, "tokens"]:
    scored = np.ones(len(test.ids), dtype=np.int64)
    scored[np.asarray(test.starts[:-1])] = 0
    return scored


def _write_curve(folder: Path, curve: list[EvalPoint]) -> None:
    with (folder / "curve.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(EvalPoint._fields)
        rows.writerows(curve)
