"""Words for the blanks of a text, found from both sides of it, by filler.onnx.

A blank stands for one word, of as many tokens as suit it. The tokens of a blank are filled one after another, the
surest first, and after each the rest are looked at anew (mask-predict: Ghazvininejad et al. 2019). The product of the
probabilities on the way is that of the whole word, and decides how many tokens the blank gets. A mean would favour
long words, whose last tokens follow from the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from recurlm.errors import InputError
from recurlm.runtime.blanks import Blanks, Kinds, Row
from recurlm.runtime.bundle import Bundle
from recurlm.runtime.rows import padded
from recurlm.runtime.sampling import Numbers, Sampling, numbers, uniform
from recurlm.runtime.scorer import Score, Scorer

INPUTS = {"tokens", "length", "temperature", "top_k", "top_p", "uniform"}
MOST_TOKENS = {"bpe": 3, "char": 12, "word": 1}  # of a blank
LONGEST = 2048  # tokens of a text, which is read whole
DRAWS = 64  # made when no token drawn at once may stand where it should
FLATTER = (1.0, 10.0, 100.0)  # temperatures of these draws, until one will do
LIKELIEST = Sampling(temperature=0.0, top_k=0, top_p=1.0)


class Filler:
    """Fills blanks with a cloze model."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        """Load filler.onnx.

        Raises:
            InputError: the bundle is a causal model's, or its filler.onnx does not fit.
        """
        if bundle.causal:
            raise InputError(
                f"{bundle.folder}: '{bundle.variant}' reads from the left only and cannot fill blanks: "
                "try recurlm generate, or a bundle such as bilstm"
            )
        self.bundle = bundle
        self.threads = threads
        self._session = bundle.session("filler.onnx", INPUTS, threads)

    @classmethod
    def from_bundle(cls, path: str | Path, threads: int | None = None) -> Filler:
        """Open the bundle at `path`; see `Bundle.open` for what is refused."""
        return cls(Bundle.open(path), threads)

    def fill(
        self,
        text: str,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        max_blank_tokens: int | None = None,
    ) -> str:
        """The text with a word in place of each `___`; what stands around them is not touched.

        Args:
            max_blank_tokens: of a word; left out, 3 for bpe, 12 for char, 1 for word.

        Raises:
            InputError: no blank, something the vocabulary lacks, too long a text, or a setting out of range.
        """
        sampling, stream = Sampling(temperature, top_k, top_p), numbers(seed)
        most = MOST_TOKENS[self.bundle.vocabulary.kind] if max_blank_tokens is None else max_blank_tokens
        if not most >= 1:
            raise InputError(f"max_blank_tokens is {most}: 1 or more")
        blanks = Blanks(text, self.bundle.vocabulary, self._kinds)
        every = range(len(blanks))
        longest = len(blanks.row([most] * len(blanks), []).ids)
        if longest > LONGEST:
            raise InputError(f"the text has about {longest} tokens, and at most {LONGEST} are read at once: shorten it")
        row = blanks.row([self._size(blanks, blank, most) for blank in every], every)
        self._fill([row], sampling, stream)
        return blanks.text(row)

    @cached_property
    def scorer(self) -> Scorer:
        """The same bundle's scorer, loaded when it is first asked for."""
        return Scorer(self.bundle, self.threads)

    def score(self, text: str) -> Score:
        """How likely the model finds a text; see `Scorer.score`."""
        return self.scorer.score(text)

    @cached_property
    def _kinds(self) -> Kinds:
        return Kinds.of(self.bundle.vocabulary)

    def _size(self, blanks: Blanks, blank: int, most: int) -> int:
        """How many tokens suit a blank, the others standing for one token each."""
        sizes = range(1, most + 1)
        if most == 1:
            return 1
        rows = [blanks.row([size if other == blank else 1 for other in range(len(blanks))], [blank]) for size in sizes]
        self._fill(rows, LIKELIEST, numbers(0))
        return max(sizes, key=lambda size: rows[size - 1].log_prob)

    def _fill(self, rows: Sequence[Row], sampling: Sampling, stream: Numbers) -> None:
        """Fill the open positions of all rows, one of each row in a call."""
        while unfinished := [row for row in rows if row.open]:
            time = max(len(row.ids) for row in unfinished)
            drawn = self._draw([row.ids for row in unfinished], sampling, uniform(stream, (len(unfinished), time)))
            for row, tokens, log_probs in zip(unfinished, *drawn, strict=True):
                row.put(*max(row.candidates(tokens, log_probs) or self._search(row, sampling, stream)))

    def _search(self, row: Row, sampling: Sampling, stream: Numbers) -> list[tuple[float, int, int]]:
        """Candidates from many draws, where the single one had none.

        At temperature 0 the numbers are spread evenly, which finds every token of a probability of at least 1/DRAWS.
        """
        even = np.repeat((np.arange(DRAWS, dtype=np.float32)[:, None] + 0.5) / DRAWS, len(row.ids), axis=1)
        flatter = [Sampling(temperature, 0, 1.0) for temperature in FLATTER]
        for setting in flatter if sampling.temperature == 0 else [sampling, *flatter]:
            numbers_drawn = even if sampling.temperature == 0 else uniform(stream, even.shape)
            drawn = zip(*self._draw([row.ids] * DRAWS, setting, numbers_drawn), strict=True)
            found = [candidates for tokens, log_probs in drawn if (candidates := row.candidates(tokens, log_probs))]
            if found:
                return max(found, key=max) if sampling.temperature == 0 else found[0]
        raise InputError("the vocabulary has no token that could stand in a blank of this text")

    def _draw(
        self, rows: Sequence[Sequence[int]], sampling: Sampling, numbers_drawn: Any
    ) -> tuple[list[list[int]], list[list[float]]]:
        """For each position of each row, a token drawn from both its sides, and its log-probability."""
        tokens, length = padded(rows)
        feeds = {"tokens": tokens, "length": length, "uniform": numbers_drawn} | sampling.feeds(len(rows))
        filled, log_prob = self._session.run(["filled", "log_prob"], feeds)
        return filled.tolist(), log_prob.tolist()
