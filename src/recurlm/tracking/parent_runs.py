"""The run of a pipeline, above those of its variants: the report, what they share, and which of them is best."""

from __future__ import annotations

import time
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.tracking.context.registry import resolve_tags

from recurlm.report import fingerprint, markdown, tables
from recurlm.report.results import Result, Results
from recurlm.report.sync_plan import SyncPlan, best, validation_bits
from recurlm.tracking import describe
from recurlm.tracking.client import discard, runs_with
from recurlm.tracking.training_times import clock
from recurlm.tracking.datasets import datasets
from recurlm.tracking.store_contents import StoreContents
from recurlm.tracking.store import KEY, LOGGED, PARENT, REPORT

LONGEST_NOTE = 5000  # characters that every store takes in a tag


class ParentRuns:
    """Opens the pipelines' runs that are needed, and finishes those that changed."""

    def __init__(
        self, client: MlflowClient, experiment: str, root: Path, results: Results, wanted: SyncPlan, found: StoreContents
    ) -> None:
        self.client, self.experiment, self.root = client, experiment, root
        self.results, self.wanted, self.found = results, wanted, found
        self.runs: dict[str, str] = {}  # key → run, of those that are part of this
        if wanted.dvc_experiment:  # it has a run even where none of its results is new
            for result in results.variants:
                if result.name in wanted.parents:
                    self.of(result)

    def of(self, result: Result) -> str:
        """The run that a new run of this result lies under, opened where there is none."""
        key = self.wanted.parents[result.name]
        if key not in self.runs:
            self.runs[key] = self.found.runs[key].run if key in self.found.runs else self._open(key)
        return self.runs[key]

    def attach(self, result: Result, run: str) -> None:
        """Put a run that lost the one above it under another."""
        above = self.found.parent_of(result.key)
        if above is None:
            self.client.set_tag(run, PARENT, self.of(result))
        elif not self.wanted.dvc_experiment:  # whose report is not that of the runs which it took over
            key = next(key for key, logged in self.found.runs.items() if logged == above)
            self.runs[key] = above.run

    def finish(self, runs: dict[str, str]) -> None:
        """Write into each what is new.

        Args:
            runs: variant → its run.
        """
        for key, run in self.runs.items():
            if key not in self.found.runs or self.found.runs[key].report != self.wanted.report:
                self._fill(run, runs)

    def _open(self, key: str) -> str:
        for left in runs_with(self.client, self.experiment, key):
            discard(self.client, left)
        below = [result for result in self.results.variants if self.wanted.parents.get(result.name) == key]
        start = min(clock(self.root, result).start for result in below)
        tags = describe.origin(self.root) | {
            KEY: key,
            LOGGED: str(int(time.time() * 1000)),
            "mlflow.source.name": "dvc repro",
            **({"dvc_experiment": self.wanted.dvc_experiment} if self.wanted.dvc_experiment else {}),
        }
        name = self.wanted.dvc_experiment or describe.pipeline_name(self.results, below[0])
        opened = self.client.create_run(self.experiment, start, resolve_tags(tags), run_name=name)
        run = str(opened.info.run_id)
        params = [Param(*pair) for pair in describe.shared_params(below[0]).items()]
        self.client.log_batch(run, params=params)
        self.client.log_inputs(run, list(datasets(self.results).values()))
        return run

    def _fill(self, run: str, runs: dict[str, str]) -> None:
        complete = [result for result in self.results.variants if result.name in runs]
        end = max(clock(self.root, result).end for result in complete)
        for name in ("params.yaml", "dvc.lock"):
            if (self.root / name).is_file():
                self.client.log_artifact(run, str(self.root / name))
        if self.wanted.report:
            self.client.log_artifacts(run, str(self.root / fingerprint.FOLDER), "report")
        champion = best(complete)
        if champion and (bits := validation_bits(champion)) is not None:
            self.client.log_batch(run, metrics=[Metric("best_validation_bits_per_byte", bits, end, 0)])
            self.client.set_tag(run, "best_variant", champion.name)
        self.client.set_tag(run, "variants", " ".join(runs))
        self.client.set_tag(run, "mlflow.note.content", self._note(runs))
        self.client.set_tag(run, REPORT, self.wanted.report)
        self.client.set_terminated(run, "FINISHED", end)

    def _note(self, runs: dict[str, str]) -> str:
        links = " · ".join(f"[{name}](#/experiments/{self.experiment}/runs/{run})" for name, run in runs.items())
        whole = f"{links}\n\n{markdown.table(tables.comparison(self.results))}\n"
        return whole if len(whole) <= LONGEST_NOTE else links[:LONGEST_NOTE]
