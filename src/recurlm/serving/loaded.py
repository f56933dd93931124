"""The bundles that a server has loaded, by the names that requests give them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

from recurlm.errors import nearest
from recurlm.runtime import Bundle, Filler, Generator, Scorer
from recurlm.runtime.bundle import DESCRIPTION
from recurlm.serving.batch import Batch, rows_are_independent
from recurlm.serving.engine import Engine
from recurlm.serving.errors import ApiError, busy
from recurlm.serving.logprobs import Steps
from recurlm.serving.measures import Measures
from recurlm.serving.schema import Model
from recurlm.serving.settings import Settings
from recurlm.storage import sha256_of

Task = Literal["generate", "score", "fill"]
Result = TypeVar("Result")


class Loaded:
    """One bundle, and all that runs it."""

    def __init__(self, name: str, path: Path, settings: Settings, measures: Measures) -> None:
        """Open a bundle.

        Raises:
            InputError: it cannot be opened; see `Bundle.open`.
        """
        self.name = name
        self.bundle = bundle = Bundle.open(path)
        self.created = int((path / DESCRIPTION).stat().st_mtime)
        self.fingerprint = f"fp_{sha256_of(path / DESCRIPTION)[:12]}"
        self.scorer = Scorer(bundle, settings.threads)
        self.steps = Steps(bundle, settings.threads)
        self.measures = measures.of(name)
        self.generator: Generator | None = None
        self.filler: Filler | None = None
        self.engine: Engine | None = None
        if bundle.causal:
            limits = settings.limits
            self.generator = Generator(bundle, settings.threads)
            batch = Batch(self.generator, rows_are_independent(self.generator, limits.batch))
            self.engine = Engine(batch, limits.batch, limits.queue, self.measures)
        else:
            self.filler = Filler(bundle, settings.threads)

    def does(self) -> list[Task]:
        return ["generate", "score"] if self.bundle.causal else ["fill", "score"]

    def describe(self) -> Model:
        """As /v1/models tells it."""
        return Model(
            id=self.name,
            created=self.created,
            variant=self.bundle.variant,
            precision=self.bundle.precision,
            does=self.does(),
        )


def load(settings: Settings, measures: Measures) -> dict[str, Loaded]:
    """Load every bundle that is to be served."""
    return {name: Loaded(name, path, settings, measures) for name, path in settings.bundles.items()}


def choose(models: Mapping[str, Loaded], name: str | None, task: Task) -> Loaded:
    """The model of a request.

    Raises:
        ApiError: there is none of that name, it cannot do this, or it is not named and there are several.
    """
    able = [model for model in models.values() if task in model.does()]
    if not able:
        raise ApiError(404, f"no model here can {task}", "model", "model_not_found")
    if name is None:
        if len(able) == 1:
            return able[0]
        raise ApiError(400, f"name a model that can {task}: one of {', '.join(model.name for model in able)}", "model")
    if name not in models:
        raise ApiError(404, f"there is no model '{name}': {nearest(name, models)}", "model", "model_not_found")
    if models[name] not in able:
        raise ApiError(400, f"the model '{name}' cannot {task}: it can {' and '.join(models[name].does())}", "model")
    return models[name]


class Workers:
    """Threads for work that is not drawn in batches; so much may wait for them."""

    def __init__(self, queue: int) -> None:
        self._pool = ThreadPoolExecutor(1, "work")
        self._queue, self._pending = queue, 0

    async def run(self, work: Callable[[], Result]) -> Result:
        """Do it when its turn comes.

        Raises:
            ApiError: too much waits already.
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
