"""Training at the best settings from every seed, and the score of each on the test split."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pandas as pd
from jaxtyping import Int

from recurlm import model
from recurlm.compare.runs import Stop, Texts, key_of, run
from recurlm.compare.settings import Compare, Plan
from recurlm.diagnostics.likelihoods import split_nll
from recurlm.errors import InputError
from recurlm.evaluation.windows import split_windows
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
    found = {
        "variant": plan.variant,
        "parameters": model.count_parameters(trained),
        "state_bytes": 4 * state,
        "unit": unit,
        "bytes": test.counts["bytes"],
        "tokens": np.add.reduceat(scores.text.astype(np.int64), boundaries[:-1]).tolist(),
        "nats": result,
    }
    write_json(compare.folder / f"scores/{plan.variant}.json", found)


def units(test: TokenFile, plan: Plan, min_documents: int) -> tuple[str, Int[np.ndarray, "boundaries"]]:
    """What is drawn again for the intervals: documents, or the windows of few long ones; and where they begin."""
    starts = np.asarray(test.starts, dtype=np.int64)
    if len(starts) > min_documents:
        return "document", starts
    windows = split_windows(starts, plan.evaluate.window_tokens, plan.evaluate.context_tokens)
    return "window", np.append(windows.first, starts[-1])
