"""Continuous batching: texts of many requests drawn in the same calls of generator.onnx, where each may join and leave
between two calls (Yu et al. 2022, Orca).

A row's state, its place in its seed's numbers and its settings go along with it, so that its text is the one it would
get alone:

    call      1        2        3        4
    row a     read     draw     draw     draw
    row b                       read     draw     draw
    row c     read     read     draw              (of two pieces; left after one chunk)

On some machines and in some precisions (int4) the sums of a row depend on how many others are in the call. There, rows
that promise a certain text run by themselves, in turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from recurlm.runtime import Generator
from recurlm.runtime.rows import padded
from recurlm.runtime.sampling import SMALLEST, Sampling, numbers, uniform

PIECE = 64  # tokens of a prompt read in a call, so that a long one does not hold up the others
LARGEST_CHUNK = 32  # tokens drawn in a call: rows join and leave no oftener
# A row's first chunk is one token, the next twice as long, and so on; but where others are in the call, no less than
# this, or those that come would slow down those that are there.
SMALLEST_SHARED_CHUNK = 8
PROBED_SIZES = (2, 3, 4, 5, 7, 8, 12, 16, 31, 33, 64)  # of batches, against the same rows alone
PROBED_TOKENS = 6


class Row:
    """One text in the making."""

    def __init__(self, ids: Sequence[int], max_new_tokens: int, sampling: Sampling, seed: int | None) -> None:
        """Begin after the tokens `ids`, of which there is at least one.

        Raises:
            InputError: the seed is negative.
        """
        self.unread = list(ids)  # the state has not read these; the last of them it reads when the next is drawn
        self.left = max_new_tokens
        self.stream = numbers(seed)
        self.promised = seed is not None or sampling.temperature < SMALLEST  # the text is known before it is drawn
        self.penalized = sampling.repetition_penalty != 1
        self.settings = sampling.feeds(1) | {
            "min_p": np.array([sampling.min_p], np.float32),
            "repetition_penalty": np.array([sampling.repetition_penalty], np.float32),
        }
        self.chunk = 1
        self.ended = False
        self.cancelled = False  # nobody wants the rest of it
        self.state: dict[str, Any] = {}  # empty before the first call


class Batch:
    """The rows that are being drawn now."""

    def __init__(self, generator: Generator, independent: bool) -> None:
        """Begin with no rows; `independent`: see `rows_are_independent`."""
        self.generator = generator
        self.independent = independent
        self.rows: list[Row] = []
        bundle = generator.bundle
        self._end = bundle.vocabulary.bos
        zeros = {f"state.{name}": np.zeros((1, *shape), np.float32) for name, shape in bundle.state.items()}
        self._carried = {f"next_{name}": name for name in zeros}
        self._zeros = zeros | {"seen": np.zeros((1, bundle.vocabulary.tokenizer.get_vocab_size()), bool)}

    def step(self) -> list[tuple[Row, list[int]]]:
        """Read a piece of each new prompt, draw a chunk for each row that has read its own.

        Returns the rows that drew something, with their new tokens; the token that ends a text is not among them. A
        row that has ended has left the batch.
        """
        for group in self._groups([row for row in self.rows if len(row.unread) > 1]):
            self._read(group)
        drawn: list[tuple[Row, list[int]]] = []
        for group in self._groups([row for row in self.rows if len(row.unread) == 1]):
            drawn += zip(group, self._draw(group), strict=True)
        self.rows = [row for row in self.rows if not row.ended]
        return drawn

    def _groups(self, rows: list[Row]) -> list[list[Row]]:
        """The rows of each call."""
        together = [row for row in rows if self.independent or not row.promised]
        alone = [[row] for row in rows if not self.independent and row.promised]
        return [together, *alone] if together else alone

    def _read(self, rows: list[Row]) -> None:
        pieces = [row.unread[: PIECE + 1] for row in rows]
        self._call(rows, pieces, np.zeros((len(rows), 0), np.float32))
        for row, piece in zip(rows, pieces, strict=True):
            row.unread = row.unread[len(piece) - 1 :]

    def _draw(self, rows: list[Row]) -> list[list[int]]:
        least = 1 if len(rows) == 1 else SMALLEST_SHARED_CHUNK
        count = min(max(least, row.chunk) for row in rows)
        # A row that needs fewer tokens than the others draws more than it gives out: cheaper than calls of few tokens.
        count = min(count, max(row.left for row in rows))
        tokens = self._call(rows, [row.unread for row in rows], np.stack([uniform(row.stream, count) for row in rows]))
        return [self._accept(row, new) for row, new in zip(rows, tokens.tolist(), strict=True)]

    def _accept(self, row: Row, tokens: list[int]) -> list[int]:
        row.unread = tokens[-1:]
        row.chunk = min(2 * len(tokens), LARGEST_CHUNK)
        given = tokens[: row.left]
        row.left -= len(given)
        if self._end in given:
            given = given[: given.index(self._end)]
            row.ended = True
        row.ended |= row.left == 0
        return given

    def _call(self, rows: list[Row], prompts: list[list[int]], drawn: Any) -> Any:
        """The tokens [rows, time] for the uniform numbers `drawn` [rows, time]; the rows' states move on."""
        carried = dict(self._carried)
        settings = dict.fromkeys(("temperature", "top_k", "top_p"))
        if any(row.penalized for row in rows):
            carried["next_seen"] = "seen"
            settings["repetition_penalty"] = None
        if any(row.settings["min_p"][0] > 0 for row in rows):
            settings["min_p"] = None
        prompt, length = padded(prompts)
        feeds = {"prompt": prompt, "prompt_length": length, "max_new_tokens": np.array(drawn.shape[1])}
        feeds["uniform"] = drawn
        feeds |= {name: np.concatenate([row.settings[name] for row in rows]) for name in settings}
        feeds |= {
            name: np.concatenate([row.state.get(name, self._zeros[name]) for row in rows]) for name in carried.values()
        }
        tokens, *after = self.generator.run(["tokens", *carried], feeds)
        for name, values in zip(carried.values(), after, strict=True):
            for place, row in enumerate(rows):
                row.state[name] = values[place : place + 1]
        return tokens


def rows_are_independent(generator: Generator, largest: int) -> bool:
    """Whether, on this machine, a row's states are the same bits whichever rows are in the call with it.

    Floating-point sums may be taken in another order for one row than for many. Tried out at several batch sizes up to
    `largest`, with prompts of several lengths.
    """
    size = generator.bundle.vocabulary.tokenizer.get_vocab_size()
    # Any tokens will do, but none that may stand nowhere.
    special = {token for token in generator.bundle.vocabulary.special.values() if token is not None}
    usual = np.array([token for token in range(size) if token not in special])
    random = np.random.default_rng(0)
    prompts = [random.choice(usual, 1 + place % 4).tolist() for place in range(largest)]

    def final(first: int, last: int) -> list[Any]:
        rows = [Row(prompts[place], PROBED_TOKENS, Sampling(1.0, 40, 0.95), place) for place in range(first, last)]
        prompt, length = padded(prompts[first:last])
        feeds = {
            name: np.concatenate([row.settings[name] for row in rows]) for name in ("temperature", "top_k", "top_p")
        }
        feeds |= {"prompt": prompt, "prompt_length": length, "max_new_tokens": np.array(PROBED_TOKENS)}
        feeds["uniform"] = np.stack([uniform(row.stream, PROBED_TOKENS) for row in rows])
        return generator.run(["tokens", *(f"next_state.{name}" for name in generator.bundle.state)], feeds)

    alone = [np.concatenate(parts) for parts in zip(*(final(at, at + 1) for at in range(largest)), strict=True)]
    sizes = {size for size in PROBED_SIZES if size < largest} | {largest}
    return all(
        np.array_equal(one[:size], many) for size in sizes for one, many in zip(alone, final(0, size), strict=True)
    )
