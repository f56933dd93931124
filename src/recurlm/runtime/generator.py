"""Text that goes on from a prompt, drawn token by token inside generator.onnx, chunk after chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from recurlm.errors import InputError
from recurlm.runtime.bundle import Bundle
from recurlm.runtime.rows import padded
from recurlm.runtime.sampling import Numbers, Sampling, numbers, uniform
from recurlm.runtime.scorer import Score, Scorer

INPUTS = {"prompt", "prompt_length", "max_new_tokens", "temperature", "top_k", "top_p", "uniform"}
OPTIONAL = {"min_p", "repetition_penalty", "stop_token", "seen"}
# Tokens in a call: 1, 2, 4, … so that the first text comes at once, and the work between two calls soon is nothing.
LARGEST_CHUNK = 64


class Generator:
    """Continues prompts with a causal model.

    The same seed gives the same text. A text ends after `max_new_tokens`, or where the model ends it.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        """Load generator.onnx; `threads` is for one call, and at batch 1 a second thread rarely helps.

        Raises:
            InputError: the bundle is a cloze model's, or its generator.onnx does not fit.
        """
        if not bundle.causal:
            raise InputError(f"{bundle.folder}: '{bundle.variant}' fills blanks and cannot generate: try recurlm fill")
        self.bundle = bundle
        self.threads = threads
        self._session = bundle.session("generator.onnx", INPUTS | OPTIONAL, threads)

    @classmethod
    def from_bundle(cls, path: str | Path, threads: int | None = None) -> Generator:
        """Open the bundle at `path`; see `Bundle.open` for what is refused."""
        return cls(Bundle.open(path), threads)

    def generate(
        self,
        prompt: str,
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        seed: int | None = None,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
    ) -> str:
        """What comes after the prompt; after an empty one, a text from its start.

        Args:
            temperature: 0 takes the likeliest token, more than 1 surprises.
            top_k: draw among so many of the likeliest tokens; 0: among all.
            top_p: draw among the likeliest tokens that hold this share of the probability.
            min_p: draw among tokens of at least this share of the likeliest one's probability.
            repetition_penalty: above 1 makes tokens less likely that the text has already.

        Raises:
            InputError: the prompt holds what the vocabulary lacks, or a setting is out of range.
        """
        settings = (temperature, top_k, top_p, seed, min_p, repetition_penalty)
        return "".join(self.stream(prompt, max_new_tokens, *settings))

    def stream(
        self,
        prompt: str,
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        seed: int | None = None,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
    ) -> Iterator[str]:
        """The text of `generate` in pieces, while it is drawn: never half a character, never an empty piece."""
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
        texts = self._texts([prompt], max_new_tokens, sampling, [numbers(seed)])
        return (text for (text,) in texts if text)

    def generate_batch(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        seed: int | None = None,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
    ) -> list[str]:
        """What comes after each prompt, all in the same calls; prompt i draws with the seed `seed` + i.

        Two tokens that are equally likely up to a float's last digits may fall otherwise than in `generate`.
        """
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
        streams = [numbers(None if seed is None else seed + row) for row in range(len(prompts))]
        if not prompts:
            return []
        return ["".join(parts) for parts in zip(*self._texts(prompts, max_new_tokens, sampling, streams), strict=True)]

    @cached_property
    def scorer(self) -> Scorer:
        """The same bundle's scorer, loaded when it is first asked for."""
        return Scorer(self.bundle, self.threads)

    def score(self, text: str) -> Score:
        """How likely the model finds a text; see `Scorer.score`."""
        return self.scorer.score(text)

    def _texts(
        self, prompts: Sequence[str], max_new_tokens: int, sampling: Sampling, streams: Sequence[Numbers]
    ) -> Iterator[list[str]]:
        """Check the prompts, and return an iterator of each chunk's new text, one string a prompt."""
        if not max_new_tokens >= 1:
            raise InputError(f"max_new_tokens is {max_new_tokens}: 1 or more")
        rows = [self.prompt_ids(prompt) for prompt in prompts]
        vocabulary = self.bundle.vocabulary
        decoders = [vocabulary.decoder(prompt, row[-1]) for prompt, row in zip(prompts, rows, strict=True)]

        def texts() -> Iterator[list[str]]:
            ended = np.zeros(len(rows), bool)
            for drawn in self._chunks(rows, max_new_tokens, sampling, streams):
                new = []
                for row, tokens in enumerate(drawn.tolist()):
                    alive = [] if ended[row] else tokens
                    if vocabulary.bos in alive:
                        alive = alive[: alive.index(vocabulary.bos)]
                        ended[row] = True
                    new.append(decoders[row].feed(alive))
                yield new
                if ended.all():
                    return

        return texts()

    def prompt_ids(self, prompt: str) -> list[int]:
        """What generator.onnx reads: the start of a text, and the prompt's tokens.

        Raises:
            InputError: the prompt holds what the vocabulary lacks.
        """
        vocabulary = self.bundle.vocabulary
        return [vocabulary.bos, *vocabulary.known_ids(prompt, "the prompt")]

    def run(self, outputs: Sequence[str], feeds: dict[str, Any]) -> list[Any]:
        """One call of generator.onnx, with rows of the caller's own making."""
        results: list[Any] = self._session.run(list(outputs), feeds)
        return results

    def _chunks(
        self, rows: list[list[int]], max_new_tokens: int, sampling: Sampling, streams: Sequence[Numbers]
    ) -> Iterator[Any]:
        """New tokens [batch, chunk], the state carried from call to call."""
        carried = {f"next_state.{name}": f"state.{name}" for name in self.bundle.state}
        prompt, length = padded(rows)
        feeds = {"prompt": prompt, "prompt_length": length} | sampling.feeds(len(rows))
        if sampling.min_p > 0:
            feeds["min_p"] = np.array([sampling.min_p], np.float32)
        if sampling.repetition_penalty != 1:
            feeds["repetition_penalty"] = np.array([sampling.repetition_penalty], np.float32)
            carried["next_seen"] = "seen"
        drawn, size = 0, 1
        while drawn < max_new_tokens:
            count = min(size, max_new_tokens - drawn)
            feeds["max_new_tokens"] = np.array(count)
            feeds["uniform"] = np.stack([uniform(stream, count) for stream in streams])
            tokens, *after = self.run(["tokens", *carried], feeds)
            yield tokens
            # The state has read everything but the last token.
            feeds |= {"prompt": tokens[:, -1:], "prompt_length": np.ones(len(rows), np.int64)}
            feeds |= dict(zip(carried.values(), after, strict=True))
            drawn += count
            size = min(2 * size, LARGEST_CHUNK)
