"""The models that a server has loaded, by the names that requests use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from recurlm.errors import InputError, nearest
from recurlm.runtime import Bundle, Filler, Generator, Scorer
from recurlm.runtime.bundle import DESCRIPTION, Task
from recurlm.serving.engine import Engine
from recurlm.serving.exceptions import ApiError
from recurlm.serving.middleware import Metrics
from recurlm.serving.scheduler import Scheduler, rows_are_independent
from recurlm.serving.schema import Model
from recurlm.serving.settings import Limits, Settings
from recurlm.storage import sha256_of


class LoadedModel:
    """One bundle, and the sessions, scheduler and thread that run it.

    All of it is loaded at the start: what becomes of the files later (as in a `dvc repro`) changes no answer.
    """

    def __init__(self, name: str, path: Path, settings: Settings, metrics: Metrics) -> None:
        """Open a bundle.

        Raises:
            InputError: it cannot be opened (see `Bundle.open`), or it was replaced meanwhile.
        """
        self.name = name
        self.created = int((path / DESCRIPTION).stat().st_mtime) if (path / DESCRIPTION).is_file() else 0
        self.bundle = bundle = Bundle.open(path)
        self.fingerprint = _fingerprint(path)
        self.scorer = Scorer(bundle, settings.threads)
        self.step = bundle.session("step.onnx", {"token"}, settings.threads)
        self.metrics = metrics.of_model(name)
        self._longest_token = max(map(len, bundle.vocabulary.tokenizer.get_vocab()))  # in characters
        self.generator: Generator | None = None
        self.filler: Filler | None = None
        self.engine: Engine | None = None
        if "generate" in bundle.tasks:
            limits = settings.limits
            self.generator = Generator(bundle, settings.threads)
            scheduler = Scheduler(
                self.generator, rows_are_independent(self.generator, limits.max_batch), limits.max_batch
            )
            self.engine = Engine(scheduler, limits.max_queue, self.metrics)
        if "fill" in bundle.tasks:
            self.filler = Filler(bundle, settings.threads)
        # Each file was checked before it was loaded. This notices if another bundle took its place in between.
        Bundle.open(path)
        if _fingerprint(path) != self.fingerprint:
            raise InputError(f"{path}: the bundle was replaced while it was being loaded: start the server again")

    def check_length(self, text: str, what: str, limits: Limits) -> None:
        """Refuse a text that has too many tokens for certain, before it is encoded.

        Raises:
            ApiError: it has.
        """
        # A word tokenizer has one token for a word of any length that it lacks.
        least = len(text.split()) if self.bundle.vocabulary.kind == "word" else len(text) // self._longest_token
        if least > limits.max_prompt_tokens:
            raise ApiError(400, f"{what}: {least} tokens or more, at most {limits.max_prompt_tokens}", what)

    def describe(self) -> Model:
        """The model's entry in /v1/models."""
        return Model(
            id=self.name,
            created=self.created,
            variant=self.bundle.variant,
            precision=self.bundle.precision,
            does=list(self.bundle.tasks),
        )


def _fingerprint(path: Path) -> str:
    return f"fp_{sha256_of(path / DESCRIPTION)[:12]}"


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
