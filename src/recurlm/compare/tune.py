"""Tuning by Optuna's TPE sampler (Bergstra et al. 2011) on validation text: so many trials of each variant.

SQLite holds the finished trials alone. A trial's settings hang on those before it and on its number, so that a search
that was killed goes on as if it had not been. Several processes share a search as `shared` says.
"""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, create_trial

from recurlm.compare import shared
from recurlm.compare.runs import Settings, Stop, Texts, key_of, run
from recurlm.compare.settings import LOGARITHMIC, Compare, Plan, Space, Tune
from recurlm.errors import InputError
from recurlm.progress import say
from recurlm.storage import sha256_of, write_json


def tune(compare: Compare, plan: Plan, stop: Stop = lambda: False) -> None:
    """Search the settings of one variant, and write the best and all trials to tuned/<variant>.json.

    Raises:
        InputError: every trial diverged.
        StoppedError: `stop` said so; what was done is kept.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    budget, folder, texts = compare.tune, compare.folder, Texts(compare.folder / "tokens")
    # More trials go on from fewer: their number is no part of the key.
    key = key_of(plan, texts, tune=budget.model_dump(exclude={"trials"}), search=sha256_of(Path(__file__)))

    def loss_of(number: int, settings: Settings) -> float:
        sizes = {"seed": budget.seed, "tokens": budget.tokens, "evals": 1}
        label = f"{plan.variant}, trial {number + 1} of {budget.trials}"
        trained = run(plan, texts, settings, sizes, folder / f"running/tune-{plan.variant}.safetensors", label, stop)
        loss = math.inf if trained is None else trained[1].best.validation_loss
        say(f"{label}: {'diverged' if trained is None else f'{loss:.4f} nats a token'} ({_words(settings)})")
        return loss

    if address := os.environ.get(shared.VARIABLE):
        name, space = f"{plan.variant}-{key}", distributions(budget.space)
        trials = shared.search(address, name, budget.trials, space, partial(propose, budget), loss_of)
    else:
        database = folder / "trials" / f"{plan.variant}.db"
        database.parent.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(storage=f"sqlite:///{database}", study_name=key, load_if_exists=True)
        for number in range(len(study.trials), budget.trials):
            settings = propose(budget, number, study.trials)
            loss = loss_of(number, settings)
            study.add_trial(create_trial(params=settings, distributions=distributions(budget.space), value=loss))
        trials = study.trials[: budget.trials]
    best = min(trials, key=_loss)
    if _loss(best) == math.inf:
        raise InputError(f"compare: all {len(trials)} trials of '{plan.variant}' diverged: lower tune.space's rates")
    rows = [_row(trial, trial.number == best.number) for trial in trials]
    result = {"variant": plan.variant, "key": key, "tokens": budget.tokens, "best": best.params, "trials": rows}
    write_json(folder / "tuned" / f"{plan.variant}.json", result)


def propose(budget: Tune, number: int, earlier: list[FrozenTrial]) -> Settings:
    """The settings of a trial, to three digits."""
    sampler = TPESampler(seed=budget.seed + number, n_startup_trials=budget.startup_trials)
    study = optuna.create_study(sampler=sampler)
    study.add_trials(earlier)
    proposed = study.ask(distributions(budget.space)).params
    return {name: min(max(float(f"{proposed[name]:.3g}"), low), high) for name, (low, high) in budget.space}


def distributions(space: Space) -> dict[str, BaseDistribution]:
    return {name: FloatDistribution(low, high, log=name in LOGARITHMIC) for name, (low, high) in space}


def _loss(trial: FrozenTrial) -> float:
    return math.inf if trial.value is None else trial.value


def _row(trial: FrozenTrial, best: bool) -> dict[str, Any]:
    loss = _loss(trial)
    return {"validation_nats_per_token": None if loss == math.inf else loss, "best": best, "settings": trial.params}


def _words(settings: Settings) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())
