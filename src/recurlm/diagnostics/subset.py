"""The text that diagnostics read: the first tokens of a split's documents, and random passages of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int, Integer
from tokenizers import Tokenizer

from recurlm.errors import InputError
from recurlm.tokens.counts import Counts
from recurlm.tokens.encode import Documents
from recurlm.tokens.pieces import safe_pieces
from recurlm.tokens.special import BOS, EOL

MIN_DOCUMENT_TOKENS = 2048  # read of each document, where it has as many: memory shows only in long texts


@dataclass(frozen=True)
class Subset:
    """The first tokens of some documents, as the files of a split hold them: `<bos>` first."""

    ids: Integer[np.ndarray, "tokens"]
    starts: Int[np.ndarray, "boundaries"]
    documents: tuple[int, ...]  # their numbers in the split
    go_on: frozenset[int] = frozenset()  # those that have more tokens in the split

    @property
    def tokens(self) -> int:
        """Tokens of text, without `<bos>`."""
        return len(self.ids) - len(self.documents)

    def lengths(self) -> list[int]:
        """Tokens of text of each document."""
        return [int(stop - start) - 1 for start, stop in pairwise(self.starts)]


def head(ids: Integer[np.ndarray, "tokens"], starts: Int[np.ndarray, "boundaries"], max_tokens: int) -> Subset:
    """At most `max_tokens` tokens of text: equally many of each document, or of as many documents as fit.

    A split that fits is taken whole, with documents that have no tokens, such as blanks where a token is a word. A
    document gives at least `MIN_DOCUMENT_TOKENS`, if there are as many.
    """
    whole = int(np.diff(starts).sum()) - (len(starts) - 1)
    each = whole if whole <= max_tokens else max(max_tokens // (len(starts) - 1), MIN_DOCUMENT_TOKENS)
    left, taken, documents, go_on = min(whole, max_tokens), [], [], set()
    for document, (start, stop) in enumerate(pairwise(starts.tolist())):
        count = min(stop - start - 1, each, left)
        if count > 0 or whole <= max_tokens:
            taken.append(ids[start : start + 1 + count])
            documents.append(document)
            left -= count
            if count < stop - start - 1:
                go_on.add(document)
    lengths = [len(document) for document in taken]
    joined = np.concatenate(taken) if taken else ids[:0]
    return Subset(np.asarray(joined), np.cumsum([0, *lengths]), tuple(documents), frozenset(go_on))


def count_text(subset: Subset, corpus: Documents, tokenizer: Tokenizer, cut: str) -> list[Counts]:
    """Words, bytes and characters of each document of a subset, counted in its text: all of it, if it does not go on.

    Args:
        cut: where the tokenizer's kind allows a text to be split (recurlm.tokens.tokenizer.Kind).

    Raises:
        InputError: the text does not have as many tokens as the subset.
    """
    documents = []
    for document, tokens in zip(subset.documents, subset.lengths(), strict=True):
        counts = Counts(tokenizer)
        counts.start_document()
        goes_on = document in subset.go_on
        for text in safe_pieces(corpus.pieces(document), cut):
            left = tokens - counts.tokens
            if goes_on and not left:
                break
            encoding = tokenizer.encode(text, add_special_tokens=False)
            ids = encoding.ids
            if goes_on and len(ids) > left:
                text, ids = text[: encoding.offsets[left - 1][1]], ids[:left]
            counts.add(text, np.array(ids))
        if counts.tokens != tokens:
            raise InputError(f"data/tokens: document {document} is not that of data/corpus: tokenize again")
        documents.append(counts)
    return documents


def sum_counts(counts: Sequence[Counts]) -> dict[str, int]:
    """The sums over documents, under the names of a split's manifest."""
    rows = [document.totals() for document in counts]
    return {name: sum(row[name] for row in rows) for name in rows[0]} if rows else {}


def passages(
    ids: Integer[np.ndarray, "tokens"],
    starts: Int[np.ndarray, "boundaries"],
    count: int,
    length: int,
    shortest: int,
    seed: int,
    begins: Bool[np.ndarray, "tokens"] | None = None,
) -> Int[np.ndarray, "count length"]:
    """`count` passages of `length` ids, drawn with `seed` without replacement.

    Where documents are too short for that, the length is halved until there are `count` positions, and not below
    `shortest`. Empty ([0, shortest]) where no document has that many ids.

    Args:
        begins: where a passage may begin; it counts where so many passages fit.
    """
    if begins is not None:
        allowed = np.flatnonzero(begins)
        fits = allowed + length <= starts[np.searchsorted(starts, allowed, side="right")]
        allowed = allowed[fits]
        if len(allowed) >= count:
            begin = np.random.default_rng(seed).choice(allowed, count, replace=False)
            return np.asarray(ids[begin[:, None] + np.arange(length)], np.int64)
    while True:
        room = np.maximum(np.diff(starts) - length + 1, 0)  # positions where a passage may begin, by document
        if room.sum() >= count or length <= shortest:
            break
        length = max(shortest, length // 2)
    positions = int(room.sum())
    chosen = (
        np.random.default_rng(seed).choice(positions, min(count, positions), replace=False)
        if positions
        else np.zeros(0, int)
    )
    ends = np.cumsum(room)
    document = np.searchsorted(ends, chosen, side="right")
    begin = starts[document] + chosen - (ends - room)[document]
    return np.asarray(ids[begin[:, None] + np.arange(length)], np.int64)


def line_starts(
    ids: Integer[np.ndarray, "tokens"], starts: Int[np.ndarray, "boundaries"], tokenizer: Tokenizer
) -> Bool[np.ndarray, "tokens"]:
    """Whether a token is the first one of a line; `<bos>` is not."""
    vocabulary = [[token] for token in range(tokenizer.get_vocab_size())]
    texts = tokenizer.decode_batch(vocabulary, skip_special_tokens=False)
    ends_line = np.array([text.endswith(("\n", EOL, BOS)) for text in texts])
    first = np.zeros(len(ids), bool)
    first[1:] = ends_line[ids[:-1]]
    first[starts[:-1]] = False
    return first
