"""Continuous batching: sequences of many requests share the calls of generator.onnx, and each may join and leave
between two calls (Yu et al. 2022, Orca).

A sequence keeps its own state, random generator and settings, so that its text is the one it would get alone:

    call          1        2        3        4
    sequence a    prefill  decode   decode   decode
    sequence b                      prefill  decode
    sequence c    prefill  prefill  decode            (a long prompt in two pieces; left after one chunk)

Which sequences a call has is decided anew for each: first those of small requests, then those of the others in turns,
so that each request gets the same share however many texts it asks for. A call reads or samples `CALL_TOKENS` in all,
so that none has to wait long for the next. Now and then a call is that of the request that has waited longest: small
requests that come without end would keep others from the batch, or from reading their prompts.

On some machines and in some precisions (int4) the sums of a row depend on the batch size. There, sequences whose text
is reproducible (a seed, or greedy) run alone, in turns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from recurlm.runtime import Generator
from recurlm.runtime.sampling import Sampling, seeded_rng, uniforms
from recurlm.runtime.session import State, pad_batch

CALL_TOKENS = 256  # of all rows of a call: with more, a small request would wait longer for its turn
PREFILL_TOKENS = 64  # of a prompt in one call
LONGEST_WAITING = 4  # every so many calls, one begins with the request that has waited longest
MAX_CHUNK = 32  # tokens sampled for a sequence in one call
# A sequence's first chunk is one token, the next twice as long, and so on. In a shared batch it is at least this, or
# new sequences would slow down those that are running.
MIN_SHARED_CHUNK = 8
PROBED_BATCH_SIZES = (2, 3, 4, 5, 7, 8, 12, 16, 31, 33, 64)
PROBED_TOKENS = 6


@dataclass(eq=False)
class Share:
    """The claim that a request's sequences have together on the rows of the calls."""

    small: bool = False  # whether they go first
    served: int | None = None  # tokens read and sampled; a newcomer begins with the least that another has
    waited: int = 0  # calls since one of its sequences had a part in one


class Sequence:
    """A text that is being generated."""

    def __init__(
        self,
        ids: Iterable[int],
        max_new_tokens: int,
        sampling: Sampling,
        seed: int | None,
        share: Share | None = None,
    ) -> None:
        """Begin after the tokens `ids`, of which there is at least one.

        Args:
            share: of the request; None for one of its own.

        Raises:
            InputError: the seed is negative.
        """
        # Tokens that the state has not read; it reads the last of them in the call that samples the next.
        self.unread = list(ids)
        self.tokens_left = max_new_tokens
        self.rng = seeded_rng(seed)
        self.reproducible = seed is not None or sampling.greedy
        self.penalized = sampling.repetition_penalty != 1
        self.settings = sampling.feeds(1) | {
            "min_p": np.array([sampling.min_p], np.float32),
            "repetition_penalty": np.array([sampling.repetition_penalty], np.float32),
        }
        self.share = share or Share()
        self.served = 0  # tokens read and sampled
        self.chunk = 1
        self.finished = False
        self.cancelled = False  # the client has gone
        self.state: State | None = None  # None before the first call
        self.seen: Any = None  # bool [1, vocabulary], the tokens of the text so far; None before the first call


class Scheduler:
    """The sequences that are running, and the batches that they form."""

    def __init__(self, generator: Generator, rows_are_independent: bool, max_batch: int = 64) -> None:
        """Begin with no sequences; `rows_are_independent`: see the function of that name."""
        self.generator = generator
        self.rows_are_independent = rows_are_independent
        self.max_batch = max_batch
        self.sequences: list[Sequence] = []
        self.batch: list[Sequence] = []  # of the last call
        self._calls = 0
        vocabulary = generator.bundle.vocabulary
        self._bos = vocabulary.bos
        self._zero_state = generator.session.zero_state(1)
        self._nothing_seen = np.zeros((1, vocabulary.tokenizer.get_vocab_size()), bool)

    def step(self) -> list[tuple[Sequence, list[int]]]:
        """Make one call: read a piece of some prompts, or sample a chunk for some sequences whose prompts are read.

        Returns the sequences that got new tokens, without a final `<bos>`. Finished sequences are removed.
        """
        if not self.sequences:
            return []
        self._calls += 1
        self.batch = self._next_batch()
        for share in {sequence.share for sequence in self.sequences}:
            share.waited += 1
        for sequence in self.batch:
            sequence.share.waited = 0
        # Each row reads or samples as many tokens, of which it may need fewer.
        most = max(1, CALL_TOKENS // len(self.batch))
        if len(self.batch[0].unread) > 1:
            count = self._prefill(most)
            new_tokens = []
        else:
            tokens = self._decode(most)
            count = len(tokens[0])
            new_tokens = [
                (sequence, self._accept(sequence, new)) for sequence, new in zip(self.batch, tokens, strict=True)
            ]
        for sequence in self.batch:
            sequence.served += count
            sequence.share.served = (sequence.share.served or 0) + count
        self.sequences = [sequence for sequence in self.sequences if not sequence.finished]
        return new_tokens

    def _next_batch(self) -> list[Sequence]:
        """The sequences of the next call: the one whose turn it is, and those that can share its call."""
        ordered = self._in_turn()
        if self._calls % LONGEST_WAITING == 0:
            longest = max(ordered, key=lambda each: each.share.waited)
            ordered.remove(longest)
            ordered.insert(0, longest)
        first = ordered[0]
        if self._alone(first):
            return [first]
        prefill = len(first.unread) > 1
        batch = [each for each in ordered if (len(each.unread) > 1) == prefill and not self._alone(each)]
        return batch[: self.max_batch]

    def _in_turn(self) -> list[Sequence]:
        """All sequences: those of small requests first, then by what their requests have been served so far."""
        shares = {sequence.share for sequence in self.sequences}
        least = min((share.served for share in shares if share.served is not None and not share.small), default=0)
        rows: Counter[Share] = Counter()
        turns: dict[Sequence, tuple[bool, int]] = {}
        for sequence in sorted(self.sequences, key=lambda each: each.served):
            share = sequence.share
            if share.served is None:
                share.served = least
            # Each row of a request comes after the rows that others have until it would have been served as much.
            turns[sequence] = (not share.small, share.served + rows[share] * (CALL_TOKENS // self.max_batch))
            rows[share] += 1
        return sorted(self.sequences, key=turns.__getitem__)

    def _alone(self, sequence: Sequence) -> bool:
        return not self.rows_are_independent and sequence.reproducible

    def _prefill(self, most: int) -> int:
        """Read up to `most` tokens of each prompt; returns how many."""
        pieces = [sequence.unread[: min(most, PREFILL_TOKENS) + 1] for sequence in self.batch]
        self._call(self.batch, pieces, np.zeros((len(self.batch), 0), np.float32))
        for sequence, piece in zip(self.batch, pieces, strict=True):
            sequence.unread = sequence.unread[len(piece) - 1 :]
        return max(map(len, pieces)) - 1

    def _decode(self, most: int) -> list[list[int]]:
        """Up to `most` new tokens of each sequence."""
        batch = self.batch
        least = 1 if len(batch) == 1 else MIN_SHARED_CHUNK
        count = min(max(least, sequence.chunk) for sequence in batch)
        # A sequence that needs fewer tokens than the others drops the rest: cheaper than calls of few tokens.
        count = min(count, most, max(sequence.tokens_left for sequence in batch))
        uniform = np.stack([uniforms(sequence.rng, count) for sequence in batch])
        tokens: list[list[int]] = self._call(batch, [sequence.unread for sequence in batch], uniform).tolist()
        return tokens

    def _accept(self, sequence: Sequence, tokens: list[int]) -> list[int]:
        """The tokens up to the end of the text."""
        sequence.unread = tokens[-1:]
        sequence.chunk = min(2 * len(tokens), MAX_CHUNK)
        accepted = tokens[: sequence.tokens_left]
        sequence.tokens_left -= len(accepted)
        if self._bos in accepted:
            accepted = accepted[: accepted.index(self._bos)]
            sequence.finished = True
        sequence.finished |= sequence.tokens_left == 0
        return accepted

    def _call(self, batch: list[Sequence], prompts: list[list[int]], uniform: Any) -> Any:
        """The tokens [batch, time] for the numbers `uniform` [batch, time]; updates the sequences' states."""
        prompt, length = pad_batch(prompts)
        feeds = {"prompt": prompt, "prompt_length": length, "max_new_tokens": np.array(uniform.shape[1])}
        feeds["uniform"] = uniform
        outputs, settings = ["tokens"], ["temperature", "top_k", "top_p"]
        if any(sequence.penalized for sequence in batch):
            outputs.append("next_seen")
            settings.append("repetition_penalty")
            seen = [self._nothing_seen if sequence.seen is None else sequence.seen for sequence in batch]
            feeds["seen"] = np.concatenate(seen)
        if any(sequence.settings["min_p"][0] > 0 for sequence in batch):
            settings.append("min_p")
        feeds |= {name: np.concatenate([sequence.settings[name] for sequence in batch]) for name in settings}
        states = [sequence.state or self._zero_state for sequence in batch]
        state = {name: np.concatenate([each[name] for each in states]) for name in self._zero_state}
        results, next_state = self.generator.session.run(outputs, feeds, state)
        for row, sequence in enumerate(batch):
            sequence.state = {name: values[row : row + 1] for name, values in next_state.items()}
            if "next_seen" in results:
                sequence.seen = results["next_seen"][row : row + 1]
        return results["tokens"]


def rows_are_independent(generator: Generator, largest: int) -> bool:
    """Whether, on this machine, a row's tokens and states are bit-identical whatever the other rows of its batch are.

    The order of floating-point sums may depend on the batch size. Several batch sizes up to `largest` are tried, with
    prompts of several lengths.
    """
    vocabulary = generator.bundle.vocabulary
    # Any tokens will do, but special ones.
    special = {token for token in vocabulary.special.values() if token is not None}
    ordinary = np.array([token for token in range(vocabulary.tokenizer.get_vocab_size()) if token not in special])
    rng = np.random.default_rng(0)
    prompts = [rng.choice(ordinary, 1 + row % 4).tolist() for row in range(largest)]

    def results_of(first: int, last: int) -> list[Any]:
        prompt, length = pad_batch(prompts[first:last])
        feeds = {"prompt": prompt, "prompt_length": length, "max_new_tokens": np.array(PROBED_TOKENS)}
        feeds |= Sampling(1.0, 40, 0.95).feeds(last - first)
        feeds["uniform"] = np.stack([uniforms(seeded_rng(row), PROBED_TOKENS) for row in range(first, last)])
        results, state = generator.session.run(["tokens"], feeds)
        return [results["tokens"], *state.values()]

    alone = [np.concatenate(rows) for rows in zip(*(results_of(row, row + 1) for row in range(largest)), strict=True)]
    sizes = {size for size in PROBED_BATCH_SIZES if size < largest} | {largest}
    return all(
        np.array_equal(single[:size], batched)
        for size in sizes
        for single, batched in zip(alone, results_of(0, size), strict=True)
    )
