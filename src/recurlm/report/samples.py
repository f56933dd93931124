"""What each variant writes, or fills in, from its ONNX bundle alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recurlm.config import Report
from recurlm.errors import InputError
from recurlm.report.results import Results
from recurlm.runtime import Filler, Generator


@dataclass(frozen=True)
class Sample:
    """Generated text after a prompt, or the problem that stood in the way."""

    variant: str
    prompt: str
    text: str = ""
    problem: str = ""
    filled: bool = False  # the text is the prompt with its blanks filled, and not what comes after it

    @property
    def whole(self) -> str:
        """Prompt and answer as one reads them."""
        return f"{self.prompt}\n\n→ {self.text}" if self.filled else self.prompt + self.text


def draw(results: Results) -> tuple[Sample, ...]:
    """One sample of each variant that has a bundle."""
    settings = results.params.report
    return tuple(
        _sample(result.name, result.bundle_folder, result.causal, settings)
        for result in results.variants
        if result.bundle
    )


def _sample(variant: str, bundle: Path, causal: bool, settings: Report) -> Sample:
    prompt = settings.prompt if causal else settings.blanks
    try:
        text = generated(bundle, settings) if causal else filled(bundle, settings)
    except InputError as error:  # a prompt that this vocabulary cannot spell must not cost the others their page
        return Sample(variant, prompt, problem=str(error))
    return Sample(variant, prompt, text, filled=not causal)


def generated(bundle: Path, settings: Report) -> str:
    """The text that a left-to-right model writes after the prompt."""
    return Generator.from_bundle(bundle).generate(
        settings.prompt,
        max_new_tokens=settings.tokens,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        seed=settings.seed,
    )


def filled(bundle: Path, settings: Report) -> str:
    """The text with blanks, filled by a cloze model."""
    return Filler.from_bundle(bundle).fill(settings.blanks)
