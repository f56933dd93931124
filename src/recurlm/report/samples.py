"""Samples from each variant's ONNX bundle: generated text, or a text with its blanks filled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recurlm.config import Report
from recurlm.errors import InputError
from recurlm.report.objectives import Objective
from recurlm.report.results import Results
from recurlm.runtime import Filler, Generator


@dataclass(frozen=True)
class Sample:
    """Generated text after a prompt, or the problem that prevented it."""

    variant: str
    prompt: str
    text: str = ""
    problem: str = ""
    filled: bool = False  # the text is the prompt with its blanks filled, and not its continuation

    @property
    def full_text(self) -> str:
        """The prompt and its continuation, or the prompt and the filled text."""
        return f"{self.prompt}\n\n→ {self.text}" if self.filled else self.prompt + self.text


def draw(results: Results) -> tuple[Sample, ...]:
    """One sample of each variant that has a bundle."""
    settings = results.params.report
    return tuple(
        _sample(result.name, result.bundle_folder, result.objective, settings)
        for result in results.variants
        if result.bundle
    )


def _sample(variant: str, bundle: Path, objective: Objective, settings: Report) -> Sample:
    fills = objective.task == "filler"
    prompt = settings.fill_text if fills else settings.prompt
    try:
        text = fill(bundle, settings) if fills else generate(bundle, settings)
    except InputError as error:  # a prompt that this vocabulary cannot spell must not cost the others their page
        return Sample(variant, prompt, problem=str(error))
    return Sample(variant, prompt, text, filled=fills)


def generate(bundle: Path, settings: Report) -> str:
    """The continuation of the prompt, by the generator of a bundle."""
    return Generator.from_bundle(bundle).generate(
        settings.prompt,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        seed=settings.seed,
    )


def fill(bundle: Path, settings: Report) -> str:
    """`fill_text` with its blanks filled, by the filler of a bundle."""
    return Filler.from_bundle(bundle).fill(settings.fill_text)
