"""Samples from each variant's ONNX bundle: generated text, or a text with its masks filled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from recurlm.errors import InputError
from recurlm.report.results import Results
from recurlm.runtime import Filler, Generator


@dataclass(frozen=True)
class Sample:
    """Generated text after a prompt, or the problem that prevented it."""

    variant: str
    prompt: str
    text: str = ""
    problem: str = ""
    filled: bool = False  # the text is the prompt with its masks filled, and not its continuation

    @property
    def full_text(self) -> str:
        """The prompt and its continuation, or the prompt and the filled text."""
        return f"{self.prompt}\n\n→ {self.text}" if self.filled else self.prompt + self.text


def draw(results: Results) -> Iterator[Sample]:
    """One sample of each variant that has a bundle."""
    settings = results.params.report
    drawing = settings.model_dump(include={"max_new_tokens", "temperature", "top_k", "top_p", "seed"})
    for result in results.variants:
        folder, fills = result.bundle.folder, result.objective.pseudo
        if not result.bundle.description:
            continue
        prompt = settings.fill_text if fills else settings.prompt
        try:
            if fills:
                text = Filler.from_bundle(folder).fill(prompt)
            else:
                text = Generator.from_bundle(folder).generate(prompt, **drawing)
        except InputError as error:  # a prompt that this vocabulary cannot spell must not cost the others their page
            yield Sample(result.name, prompt, problem=str(error))
        else:
            yield Sample(result.name, prompt, text, filled=fills)
