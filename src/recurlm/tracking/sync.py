"""Bring MLflow up to date with data/, through its client: a run for each result and one for the pipeline, each once.

What is logged stays as it is, what is missing is logged. A run that a killed process left, or that training began, is
completed: logging the same once more changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import LoggedModelStatus, Metric, Run, RunTag

from recurlm import config
from recurlm.report.lock import locked_stages
from recurlm.report.metrics import read_metrics
from recurlm.report.results import Result, Results, best, load_results
from recurlm.report.tables import comparison, markdown
from recurlm.tracking import describe, store, view
from recurlm.tracking.describe import PARENT, Training
from recurlm.tracking.live import TRAINING
from recurlm.tracking.pyfunc_model import verified_description
from recurlm.tracking.registry import Registry
from recurlm.tracking.store import KEY, leased

STATE = "recurlm.state"  # tag of a pipeline's run: a hash of the runs and of the report that it shows
LONGEST_NOTE = 5000  # characters that every store accepts in a tag


def sync(root: Path, uri: str | None = None) -> list[str]:
    """Log every complete result under `root` that the store does not have.

    Args:
        uri: of the store; None: the one that MLFLOW_TRACKING_URI names, else SQLite in the checkout.

    Returns:
        One line per run and registered model that changed, and per variant whose results are stale.

    Raises:
        InputError: the store is out of reach, or refuses; or a bundle is corrupted, or not verified.
    """
    plan, place, messages = Plan.of(root), store.find(root, uri), []
    with place.locked(), place.connected() as client:
        if plan.complete:
            with leased(client, place, plan.experiment):
                registry = Registry(client, place, store.open_experiment(client, place, plan.experiment), plan.results)
                logger = _Logger(registry, root, plan)
                messages += [f"logged {result.name}" for result in plan.complete if logger.result(result)]
                logger.pipeline()
                view.lay_out(client, registry.experiment)
                messages += registry.register(plan.versions, logger.ids)
    stale = {each.name: each.stale for each in plan.results.variants if each.stale and each.made}
    return messages + [f"left {name} out, whose results are stale: {why}" for name, why in stale.items()]


@dataclass(frozen=True)
class Plan:
    """What MLflow should hold of the results, by keys that these alone determine: no ids, no times."""

    results: Results
    dvc_experiment: str  # the name of the `dvc exp run` that this is part of

    @classmethod
    def of(cls, root: Path) -> Plan:
        """For the results under `root`."""
        return cls(load_results(root, config.load(root / "params.yaml")), os.environ.get("DVC_EXP_NAME", ""))

    @cached_property
    def complete(self) -> list[Result]:
        return [result for result in self.results.variants if result.complete]

    @property
    def experiment(self) -> str:
        """In MLflow; also the name of the registered model that holds the best."""
        return self.results.params.report.experiment

    @cached_property
    def versions(self) -> dict[str, list[str]]:
        """Registered model → keys of its versions."""
        versions = {
            f"{self.experiment}-{result.name}": [bundle.key for bundle in result.bundles] for result in self.complete
        }
        champion = best(self.complete)
        return versions | ({self.experiment: [champion.bundle.key]} if champion else {})

    @cached_property
    def pipeline_key(self) -> str:
        """Of the run for the pipeline: its texts, its tokenizer and its settings; or of a DVC experiment."""
        if self.dvc_experiment:
            return _hash([self.dvc_experiment, *sorted(result.key for result in self.complete)])
        splits = self.results.corpus.get("splits", {})
        texts = {split: facts.get("sha256") for split, facts in splits.items()}
        return _hash([texts, self.results.tokens.get("tokenizer_sha256"), self.complete[0].settings])

    def as_json(self) -> dict[str, Any]:
        """The same for a file."""
        runs = {result.name: result.key for result in self.complete}
        return {"experiment": self.experiment, "runs": runs, "versions": self.versions}


def _hash(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _first_begun(runs: list[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))


class _Logger:
    """Logs into one experiment."""

    def __init__(self, registry: Registry, root: Path, plan: Plan) -> None:
        self.registry, self.root, self.plan = registry, root, plan
        self.client, self.experiment = registry.client, registry.experiment
        self.runs = mlflow.search_runs([self.experiment], output_format="list")
        self.ids: dict[str, str] = {}  # variant → its run
        self.trainings = {result.name: Training.of(root, result) for result in plan.complete}

    def result(self, result: Result) -> bool:
        """Log a result, unless a whole run of it is there; whether it was logged."""
        training = self.trainings[result.name]
        whole = [run for run in self._keyed(result.key) if self._is_whole(run)]
        if whole:
            self.ids[result.name] = whole[0].info.run_id
            if whole[0].data.tags.get(PARENT) not in {run.info.run_id for run in self.runs}:
                self.client.set_tag(whole[0].info.run_id, PARENT, self.pipeline_run)
        else:
            self._log_run(result, training)
            self.ids[result.name] = self._settle(result)
        # Runs that were restored, and that of a training which gave what is logged already.
        for run in [*whole, *self._live(training)]:
            if run.info.run_id != self.ids[result.name]:
                self.client.delete_run(run.info.run_id)
        return not whole

    def _keyed(self, key: str) -> list[Run]:
        """The runs of one result, in any status, the first begun first."""
        return _first_begun([run for run in self.runs if run.data.tags.get(KEY) == key])

    def _is_whole(self, run: Run) -> bool:
        return run.info.status == "FINISHED" and bool(self.client.list_artifacts(run.info.run_id))

    def _live(self, training: Training) -> list[Run]:
        """The run that the training began, if no result is in it yet."""
        runs = [run for run in self.runs if training.id and run.data.tags.get(TRAINING) == training.id]
        return [run for run in runs if KEY not in run.data.tags]

    def _log_run(self, result: Result, training: Training) -> None:
        for bundle in result.bundles:  # before anything is logged
            verified_description(bundle.folder)
        run = self.ids[result.name] = self._begin(result, training)
        tags = describe.tags(self.root, self.plan.results, result, training) | {PARENT: self.pipeline_run}
        # The model config under bare names, so that all variants share the columns of MLflow's table.
        params = describe.params(result.model_config, result.settings)
        self.client.log_batch(run, params=params, tags=[RunTag(*pair) for pair in tags.items()])
        texts = describe.datasets(self.plan.results)
        self.client.log_inputs(run, list(texts.values()))
        for folder, file in describe.files(self.root, result):
            self.client.log_artifact(run, str(file), folder)
        logged_models = [self.registry.model_for(run, result, bundle) for bundle in result.bundles]
        final = describe.final_metrics(result, training.end, logged_models[0], texts)
        self.client.log_batch(run, [*training.metrics, *final])
        self.client.set_terminated(run, "FINISHED", training.end)

    def _begin(self, result: Result, training: Training) -> str:
        """The run to log into: one that was left unfinished, that of the training, or a new one."""
        # If the process is killed from here on, the run stays unfinished, and the next sync completes it.
        left = self._keyed(result.key) or self._live(training)
        if not left:
            tags = {KEY: result.key, "mlflow.user": store.user()}
            return str(self.client.create_run(self.experiment, training.start, tags, result.name).info.run_id)
        run = str(left[0].info.run_id)
        self.client.update_run(run, "RUNNING")
        for model in self.client.search_logged_models([self.experiment], f"source_run_id = '{run}'"):
            if model.status != LoggedModelStatus.READY:
                self.client.delete_logged_model(model.model_id)
        return run

    def _settle(self, result: Result) -> str:
        """Where another machine logged the same meanwhile, keep only the run that began first; its id."""
        keyed = self.client.search_runs([self.experiment], f"tags.`{KEY}` = '{result.key}' and status = 'FINISHED'")
        first, *others = _first_begun(keyed)
        for run in others:
            self.client.delete_run(run.info.run_id)
        return str(first.info.run_id)

    @cached_property
    def pipeline_run(self) -> str:
        """The id of the pipeline's run, which is created where there is none."""
        plan, first = self.plan, self.plan.complete[0]
        if found := self._keyed(plan.pipeline_key):
            return str(found[0].info.run_id)
        start = min(training.start for training in self.trainings.values())
        tags = {KEY: plan.pipeline_key, "mlflow.user": store.user(), "mlflow.source.name": "dvc repro"}
        tags |= {"dvc_experiment": plan.dvc_experiment} if plan.dvc_experiment else {}
        tags |= describe.git_tags(self.root)
        name = plan.dvc_experiment or describe.pipeline_name(plan.results, first)
        run = self.client.create_run(self.experiment, start, tags, name)
        self.client.log_batch(run.info.run_id, params=describe.params(first.settings))
        self.client.log_inputs(run.info.run_id, list(describe.datasets(plan.results).values()))
        self.runs.append(run)
        return str(run.info.run_id)

    def pipeline(self) -> None:
        """Fill the pipeline's run, unless it holds the present report of the present results."""
        plan = self.plan
        state = _hash([sorted(self.ids.items()), locked_stages(self.root).get("report")])
        (run,) = [run for run in self.runs if run.info.run_id == self.pipeline_run]
        if run.info.status == "FINISHED" and run.data.tags.get(STATE) == state:
            return
        end = max(training.end for training in self.trainings.values())
        for name in ("params.yaml", "dvc.lock"):
            self.client.log_artifact(self.pipeline_run, str(self.root / name))
        if (self.root / describe.REPORT).is_dir():
            self.client.log_artifacts(self.pipeline_run, str(self.root / describe.REPORT), "report")
        tags = {"variants": " ".join(self.ids), "mlflow.note.content": self._note(), STATE: state}
        champion, metrics = best(plan.complete), []
        if champion and (bits := champion.validation_bits) is not None:
            metrics.append(Metric("best_validation_bits_per_byte", bits, end, 0))
            tags["best_variant"] = champion.name
        self.client.log_batch(self.pipeline_run, metrics, tags=[RunTag(*pair) for pair in tags.items()])
        self.client.set_terminated(self.pipeline_run, "FINISHED", end)

    def _note(self) -> str:
        links = " · ".join(f"[{name}](#/experiments/{self.experiment}/runs/{run})" for name, run in self.ids.items())
        shown = replace(self.plan.results, variants=tuple(self.plan.complete))
        whole = f"{links}\n\n{markdown(comparison(shown, read_metrics(shown)))}\n"
        return whole if len(whole) <= LONGEST_NOTE else links[:LONGEST_NOTE]
