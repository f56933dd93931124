"""The journal of a training run: a line of JSON as soon as there is something to tell, for whoever follows the run.

The first line names the run; each other line has a time, a step and metrics by MLflow's names:

    {"time": 1764358000000, "variant": "lstm", "key": "…", "id": "…"}
    {"time": 1764358001004, "step": 31, "train_loss": 7.21, "training_tokens": 47616, "tokens_per_second": 47511.2}

A run that was killed goes on in the same file. What it had told after its last checkpoint stays, and comes once more.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recurlm.storage import whole_file

if TYPE_CHECKING:  # and torch, which who reads a journal does without
    from recurlm.training.state import EvalPoint, LogPoint

SECONDS = 1.0  # between two lines of the training loss
LARGEST = 700.0  # nats whose exponential is still a number


class Journal:
    """Writes the journal of one run."""

    def __init__(self, path: Path, key: str, variant: str, prefix: str = "") -> None:
        """Open the journal, or go on with it if the file is that of the same run.

        Args:
            key: of the run, as that of its checkpoint.
            prefix: of the names of losses and perplexities.
        """
        self.path, self.prefix = path, prefix
        lines = read_journal(path)
        if not lines or lines[0].get("key") != key:
            head = {"time": _now(), "variant": variant, "key": key, "id": uuid.uuid4().hex}
            with whole_file(path) as partial:  # a new file: whoever follows the old one is not led astray
                partial.write_text(f"{json.dumps(head)}\n", encoding="utf-8")
        self._file = path.open("r+b")
        self._file.seek(self._file.read().rfind(b"\n") + 1)
        self._file.truncate()  # a line that a kill cut off
        self.begin(0)

    def begin(self, tokens: int) -> None:
        """The run begins, or goes on, with so many tokens read."""
        self._losses: list[float] = []
        self._told = self._stepped = time.monotonic()
        self._tokens = tokens

    def step(self, step: int, tokens: int, loss: float) -> None:
        """Take note of a step: about every second, the mean loss since the last time is told."""
        self._losses.append(loss)
        self._stepped = time.monotonic()
        seconds = self._stepped - self._told
        if seconds < SECONDS:
            return
        mean = math.fsum(self._losses) / len(self._losses)
        rate = (tokens - self._tokens) / seconds
        self.write(
            step, {f"{self.prefix}train_loss": mean, "training_tokens": float(tokens), "tokens_per_second": rate}
        )
        self.begin(tokens)

    def validation(self, point: EvalPoint) -> None:
        """The loss on the whole validation split."""
        names = {"validation_loss": point.validation_loss}
        if point.validation_loss < LARGEST:
            names["validation_perplexity"] = math.exp(point.validation_loss)
        self.write(point.step, {f"{self.prefix}{name}": value for name, value in names.items()})

    def sample(self, point: LogPoint) -> None:
        """The learning rate, and the loss on a sample of the validation split."""
        loss = point.validation_loss
        sampled = {} if loss is None else {f"{self.prefix}validation_sample_loss": loss}
        self.write(point.step, {"learning_rate": point.learning_rate, **sampled})

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Append a line, which is whole as soon as it can be read."""
        pause = time.monotonic() - self._stepped  # of an evaluation: no part of tokens per second
        self._told, self._stepped = self._told + pause, self._stepped + pause
        self._file.write(f"{json.dumps({'time': _now(), 'step': step, **metrics})}\n".encode())
        self._file.flush()

    def close(self, kept: Path) -> None:
        """The run is over: move the journal to where it is kept."""
        self._file.close()
        kept.parent.mkdir(parents=True, exist_ok=True)
        self.path.replace(kept)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal, the first of which names its run; none without a journal. A line cut off is left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    try:
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    except ValueError:
        return []


def _now() -> int:
    """Milliseconds since 1970, by which MLflow counts."""
    return round(time.time() * 1000)
