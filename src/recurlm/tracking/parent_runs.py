"""The parent run of a pipeline: the report, the settings that its variants share, and the best variant."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.tracking.context.registry import resolve_tags

from recurlm.report import fingerprint
from recurlm.report.metrics import read_metrics
from recurlm.report.page_tables import comparison
from recurlm.report.results import Result, Results
from recurlm.report.sync_plan import SyncPlan, best, validation_bits
from recurlm.report.tables import markdown
from recurlm.tracking import describe
from recurlm.tracking.client import discard, runs_with
from recurlm.tracking.datasets import datasets
from recurlm.tracking.store import KEY, LOGGED, PARENT, REPORT
from recurlm.tracking.store_contents import StoreContents
from recurlm.tracking.training_times import training_times

LONGEST_NOTE = 5000  # characters that every store accepts in a tag


class ParentRuns:
    """Opens the parent runs that are needed, and updates those that changed."""

    def __init__(
        self,
        client: MlflowClient,
        experiment: str,
        root: Path,
        results: Results,
        plan: SyncPlan,
        contents: StoreContents,
    ) -> None:
        self.client, self.experiment, self.root = client, experiment, root
        self.results, self.plan, self.contents = results, plan, contents
        self.runs: dict[str, str] = {}  # key → run, of the parents in this plan
        if plan.dvc_experiment:  # it has a parent run even where none of its results is new
            for result in results.variants:
                if result.name in plan.parent_keys:
                    self.of(result)

    def of(self, result: Result) -> str:
        """The parent of a new run of this result, which is created where there is none."""
        key = self.plan.parent_keys[result.name]
        if key not in self.runs:
            self.runs[key] = self.contents.runs[key].run if key in self.contents.runs else self._open(key)
        return self.runs[key]

    def attach(self, result: Result, run: str) -> None:
        """Set the parent of a run whose parent was deleted."""
        parent = self.contents.parent_of(result.key)
        if parent is None:
            self.client.set_tag(run, PARENT, self.of(result))
        elif not self.plan.dvc_experiment:  # a DVC experiment does not update the parent of unchanged runs
            key = next(key for key, logged in self.contents.runs.items() if logged == parent)
            self.runs[key] = parent.run

    def finish(self, runs: dict[str, str]) -> None:
        """Update each parent run whose report changed.

        Args:
            runs: variant → its run.
        """
        for key, run in self.runs.items():
            if key not in self.contents.runs or self.contents.runs[key].report != self.plan.report_hash:
                self._fill(run, runs)

    def _open(self, key: str) -> str:
        for run in runs_with(self.client, self.experiment, key):  # of a killed process
            discard(self.client, run)
        children = [result for result in self.results.variants if self.plan.parent_keys.get(result.name) == key]
        start = min(training_times(self.root, result).start for result in children)
        tags = describe.git_tags(self.root) | {
            KEY: key,
            LOGGED: str(int(time.time() * 1000)),
            "mlflow.source.name": "dvc repro",
            **({"dvc_experiment": self.plan.dvc_experiment} if self.plan.dvc_experiment else {}),
        }
        name = self.plan.dvc_experiment or describe.pipeline_name(self.results, children[0])
        opened = self.client.create_run(self.experiment, start, resolve_tags(tags), run_name=name)
        run_id = str(opened.info.run_id)
        params = [Param(*pair) for pair in describe.shared_params(children[0]).items()]
        self.client.log_batch(run_id, params=params)
        self.client.log_inputs(run_id, list(datasets(self.results).values()))
        return run_id

    def _fill(self, run: str, runs: dict[str, str]) -> None:
        complete = [result for result in self.results.variants if result.name in runs]
        end = max(training_times(self.root, result).end for result in complete)
        for name in ("params.yaml", "dvc.lock"):
            if (self.root / name).is_file():
                self.client.log_artifact(run, str(self.root / name))
        if self.plan.report_hash:
            self.client.log_artifacts(run, str(self.root / fingerprint.FOLDER), "report")
        champion = best(complete)
        if champion and (bits := validation_bits(champion)) is not None:
            self.client.log_batch(run, metrics=[Metric("best_validation_bits_per_byte", bits, end, 0)])
            self.client.set_tag(run, "best_variant", champion.name)
        self.client.set_tag(run, "variants", " ".join(runs))
        self.client.set_tag(run, "mlflow.note.content", self._note(runs))
        self.client.set_tag(run, REPORT, self.plan.report_hash)
        self.client.set_terminated(run, "FINISHED", end)

    def _note(self, runs: dict[str, str]) -> str:
        links = " · ".join(f"[{name}](#/experiments/{self.experiment}/runs/{run})" for name, run in runs.items())
        logged = tuple(result for result in self.results.variants if result.name in runs)
        shown = replace(self.results, variants=logged)
        whole = f"{links}\n\n{markdown(comparison(shown, read_metrics(shown)))}\n"
        return whole if len(whole) <= LONGEST_NOTE else links[:LONGEST_NOTE]
