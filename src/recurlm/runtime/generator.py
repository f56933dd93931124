"""Text generation with generator.onnx, which reads a prompt and samples a chunk of tokens in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from recurlm.errors import InputError
from recurlm.runtime.bundle import Bundle
from recurlm.runtime.sampling import Rng, Sampling, seeded_rng, uniforms
from recurlm.runtime.scorer import BundleModel
from recurlm.runtime.session import State, pad_batch
from recurlm.runtime.tokenizer import Decoder

INPUTS = {"prompt", "prompt_length", "max_new_tokens", "temperature", "top_k", "top_p", "uniform"}
OPTIONAL = {"min_p", "repetition_penalty", "stop_token", "seen"}
# Tokens in a call: 1, 2, 4, …: the first text comes at once, and calls soon are few.
MAX_CHUNK = 64


class Generator(BundleModel):
    """Text generation, left to right.

    The same seed gives the same text. A text ends after `max_new_tokens`, where the model samples `<bos>`, or before a
    stop sequence.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        """Load generator.onnx. At batch 1 a second thread rarely helps.

        Raises:
            InputError: the bundle's model cannot generate, or its generator.onnx does not fit.
        """
        if "generate" not in bundle.tasks:
            raise InputError(f"{bundle.folder}: '{bundle.variant}' fills masks and cannot generate: try recurlm fill")
        super().__init__(bundle, threads)
        self.session = bundle.session("generator.onnx", INPUTS | OPTIONAL, threads)

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
        stop: str | Sequence[str] | None = None,
    ) -> str:
        """The text that follows the prompt; an empty prompt is just `<bos>`.

        Args:
            temperature: 0 is greedy; above 1 flattens the distribution.
            top_k: sample from so many of the likeliest tokens; 0: from all.
            top_p: sample from the smallest set of likeliest tokens whose probability reaches this.
            min_p: sample from tokens of at least this fraction of the likeliest one's probability.
            repetition_penalty: above 1 makes tokens less likely that the text already has.
            stop: the text ends before the first of these, as over HTTP; at most 4, of 1,024 characters each.

        Raises:
            InputError: the prompt holds what the vocabulary lacks, or a setting is out of range.
        """
        settings = (temperature, top_k, top_p, seed, min_p, repetition_penalty, stop)
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
        stop: str | Sequence[str] | None = None,
    ) -> Iterator[str]:
        """Yield the text of `generate` while it is sampled: whole characters, and no empty piece."""
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
        texts = self._texts([prompt], max_new_tokens, sampling, [seeded_rng(seed)], stop)
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
        stop: str | Sequence[str] | None = None,
    ) -> list[str]:
        """The text that follows each prompt, in one batch; prompt i has the seed `seed` + i.

        Sums may round otherwise than in `generate`, so near ties between two tokens may be decided otherwise.
        """
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
        rngs = [seeded_rng(None if seed is None else seed + row) for row in range(len(prompts))]
        texts = self._texts(prompts, max_new_tokens, sampling, rngs, stop)
        return ["".join(parts) for parts in zip(*texts, strict=True)] if prompts else []

    def _texts(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        sampling: Sampling,
        rngs: Sequence[Rng],
        stop: str | Sequence[str] | None,
    ) -> Iterator[list[str]]:
        """Check the settings and prompts; returns an iterator over chunks, of the new text of each prompt."""
        if not max_new_tokens >= 1:
            raise InputError(f"max_new_tokens is {max_new_tokens}: 1 or more")
        stops = validate_stops(stop)
        rows = [self.prompt_ids(prompt) for prompt in prompts]
        vocabulary = self.bundle.vocabulary
        texts = [
            _Text(vocabulary.bos, vocabulary.decoder(prompt, row[-1]), StopSearch(stops))
            for prompt, row in zip(prompts, rows, strict=True)
        ]

        def chunks() -> Iterator[list[str]]:
            for chunk in self._chunks(rows, max_new_tokens, sampling, rngs):
                yield [text.feed(tokens) for text, tokens in zip(texts, chunk.tolist(), strict=True)]
                if all(text.ended for text in texts):
                    return
            yield [text.finish() for text in texts]

        return chunks()

    def prompt_ids(self, prompt: str) -> list[int]:
        """`<bos>` and the prompt's tokens.

        Raises:
            InputError: the prompt holds what the vocabulary lacks.
        """
        vocabulary = self.bundle.vocabulary
        return [vocabulary.bos, *vocabulary.known_ids(prompt, "the prompt")]

    def _chunks(
        self, rows: list[list[int]], max_new_tokens: int, sampling: Sampling, rngs: Sequence[Rng]
    ) -> Iterator[Any]:
        """Yield new tokens [batch, chunk]; the state goes from call to call."""
        prompt, length = pad_batch(rows)
        feeds = {"prompt": prompt, "prompt_length": length} | sampling.feeds(len(rows))
        outputs = ["tokens"]
        if sampling.min_p > 0:
            feeds["min_p"] = np.array([sampling.min_p], np.float32)
        if sampling.repetition_penalty != 1:
            feeds["repetition_penalty"] = np.array([sampling.repetition_penalty], np.float32)
            outputs.append("next_seen")
        state: State | None = None
        sampled, size = 0, 1
        while sampled < max_new_tokens:
            count = min(size, max_new_tokens - sampled)
            feeds["max_new_tokens"] = np.array(count)
            feeds["uniform"] = np.stack([uniforms(rng, count) for rng in rngs])
            results, state = self.session.run(outputs, feeds, state)
            yield results["tokens"]
            # The state has not read the last token yet.
            feeds |= {"prompt": results["tokens"][:, -1:], "prompt_length": np.ones(len(rows), np.int64)}
            if "next_seen" in results:
                feeds["seen"] = results["next_seen"]
            sampled += count
            size = min(2 * size, MAX_CHUNK)


class _Text:
    """The text of one row: its tokens decoded, up to `<bos>` or a stop sequence."""

    def __init__(self, bos: int, decoder: Decoder, search: StopSearch) -> None:
        self.bos, self.decoder, self.search = bos, decoder, search
        self.ended = False

    def feed(self, tokens: list[int]) -> str:
        """What these tokens add."""
        if self.ended:
            return ""
        last = self.bos in tokens
        text = self.search.feed(self.decoder.feed(tokens[: tokens.index(self.bos)] if last else tokens))
        self.ended = self.search.found
        return text + self.finish() if last else text

    def finish(self) -> str:
        """What was held back as the possible beginning of a stop sequence, since no token follows."""
        if self.ended:
            return ""
        self.ended = True
        return self.search.held


# Stop sequences: a text that arrives piece by piece ends before the first of them.

MAX_STOPS = 4  # OpenAI's
MAX_STOP_LENGTH = 1024  # characters of each


def validate_stops(stops: str | Sequence[str] | None) -> list[str]:
    """The stop sequences as a list: of none, of one string, or of several.

    Raises:
        InputError: there are too many, or one is empty, too long, or not UTF-8 text.
    """
    if not isinstance(stops, str | Sequence | None):
        raise InputError(f"stop: {stops!r} is not a string or a list of strings")
    stops = [stops] if isinstance(stops, str) else list(stops or ())
    if len(stops) > MAX_STOPS:
        raise InputError(f"stop: {len(stops)} sequences, at most {MAX_STOPS}")
    for stop in stops:
        if not isinstance(stop, str):
            raise InputError(f"stop: {stop!r} is not a string")
        if not 1 <= len(stop) <= MAX_STOP_LENGTH:
            raise InputError(f"stop: a sequence of {len(stop)} characters: 1 to {MAX_STOP_LENGTH}")
        try:
            stop.encode()
        except UnicodeEncodeError:
            raise InputError("stop: a sequence is not UTF-8 text") from None
    return stops


class StopSearch:
    """Finds the first of several stop sequences in a streamed text, in time linear in the text.

    The first is the one that is complete first, so that the result does not depend on the pieces in which the text
    arrives; of two that are complete at once, the longer.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.found = False  # whether the text has ended before a stop sequence
        # The longest end of the text that begins a stop sequence: not safe to emit, unless the whole text ends here.
        self.held = ""
        self._patterns = [_Pattern(stop) for stop in stops]

    def feed(self, text: str) -> str:
        """The text that has become safe to emit; nothing once a stop sequence is found."""
        if self.found or not self._patterns:
            return "" if self.found else text
        pending = self.held + text
        for end in range(len(self.held), len(pending)):
            complete = [len(pattern.text) for pattern in self._patterns if pattern.advance(pending[end])]
            if complete:
                self.found, self.held = True, ""
                return pending[: end + 1 - max(complete)]
        safe = len(pending) - max(pattern.matched for pattern in self._patterns)
        self.held = pending[safe:]
        return pending[:safe]


class _Pattern:
    """One stop sequence, and how much of it the text's end matches (Knuth, Morris and Pratt 1977)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        # shorter[n]: the longest proper prefix of text[:n] that is also its suffix
        self._shorter = [0, 0]
        for end in range(1, len(text)):
            size = self._shorter[end]
            while size and text[size] != text[end]:
                size = self._shorter[size]
            self._shorter.append(size + (text[size] == text[end]))

    def advance(self, character: str) -> bool:
        """Read the text's next character; returns whether the whole sequence is matched."""
        while self.matched and self.text[self.matched] != character:
            self.matched = self._shorter[self.matched]
        self.matched += self.text[self.matched] == character
        return self.matched == len(self.text)
