"""The models that a server has loaded, by the names that requests use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from recurlm.errors import nearest
from recurlm.runtime import Bundle, Filler, Generator, Scorer
from recurlm.runtime.bundle import DESCRIPTION, Task
from recurlm.serving.engine import Engine
from recurlm.serving.errors import ApiError, busy
from recurlm.serving.logprobs import StepModel
from recurlm.serving.metrics import Metrics
from recurlm.serving.scheduler import Scheduler, rows_are_independent
from recurlm.serving.schema import Model
from recurlm.serving.settings import Settings
from recurlm.storage import sha256_of

Result = TypeVar("Result")


class LoadedModel:
    """One bundle, and the sessions, scheduler and thread that run it."""

    def __init__(self, name: str, path: Path, settings: Settings, metrics: Metrics) -> None:
        """Open a bundle.

        Raises:
            InputError: it cannot be opened; see `Bundle.open`.
        """
        self.name = name
        self.bundle = bundle = Bundle.open(path)
        self.created = int((path / DESCRIPTION).stat().st_mtime)
        self.fingerprint = f"fp_{sha256_of(path / DESCRIPTION)[:12]}"
        self.scorer = Scorer(bundle, settings.threads)
        self.step_model = StepModel(bundle, settings.threads)
        self.metrics = metrics.of_model(name)
        self.generator: Generator | None = None
        self.filler: Filler | None = None
        self.engine: Engine | None = None
        if "generate" in bundle.tasks:
            limits = settings.limits
            self.generator = Generator(bundle, settings.threads)
            scheduler = Scheduler(self.generator, rows_are_independent(self.generator, limits.batch))
            self.engine = Engine(scheduler, limits.batch, limits.queue, self.metrics)
        if "fill" in bundle.tasks:
            self.filler = Filler(bundle, settings.threads)

    def describe(self) -> Model:
        """The model's entry in /v1/models."""
        return Model(
            id=self.name,
            created=self.created,
            variant=self.bundle.variant,
            precision=self.bundle.precision,
            does=list(self.bundle.tasks),
        )


def load_models(settings: Settings, metrics: Metrics) -> dict[str, LoadedModel]:
    """Load every bundle of the settings."""
    return {name: LoadedModel(name, path, settings, metrics) for name, path in settings.bundles.items()}


def choose_model(models: Mapping[str, LoadedModel], name: str | None, task: Task) -> LoadedModel:
    """The model that a request names, or the only one that can do the task.

    Raises:
        ApiError: there is no such model, it cannot do the task, or the request names none and there are several.
    """
    able = [model for model in models.values() if task in model.bundle.tasks]
    if not able:
        raise ApiError(404, f"no model here can {task}", "model", "model_not_found")
    if name is None:
        if len(able) == 1:
            return able[0]
        raise ApiError(400, f"name a model that can {task}: one of {', '.join(model.name for model in able)}", "model")
    if name not in models:
        raise ApiError(404, f"there is no model '{name}': {nearest(name, models)}", "model", "model_not_found")
    if models[name] not in able:
        raise ApiError(
            400, f"the model '{name}' cannot {task}: it can {' and '.join(models[name].bundle.tasks)}", "model"
        )
    return models[name]


class WorkerThread:
    """A thread for work that is not batched, with a bounded queue."""

    def __init__(self, queue: int) -> None:
        self._pool = ThreadPoolExecutor(1, "worker")
        self._queue, self._pending = queue, 0

    async def run(self, work: Callable[[], Result]) -> Result:
        """Do the work when its turn comes.

        Raises:
            ApiError: the queue is full.
        """
        if self._pending > self._queue:
            raise busy(f"{self._queue} requests wait already")
        self._pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._pending -= 1

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
