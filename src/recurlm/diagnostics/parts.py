"""A bounded part of a split, and what it holds: tokens, words, bytes and characters of each document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Int, Integer
from tokenizers import Tokenizer

from recurlm.errors import InputError
from recurlm.tokens.counts import Counts
from recurlm.tokens.encode import Documents
from recurlm.tokens.pieces import safe_pieces

SHORTEST = 2048  # tokens that are read of a document at least, where it has them: memory shows only in long texts


@dataclass(frozen=True)
class Part:
    """The beginnings of documents, as the files of a split hold them: `<bos>` first."""

    ids: Integer[np.ndarray, "tokens"]
    starts: Int[np.ndarray, "boundaries"]
    documents: tuple[int, ...]  # which of the split

    @property
    def tokens(self) -> int:
        """How many tokens of text there are, `<bos>` not counted."""
        return len(self.ids) - len(self.documents)

    def lengths(self) -> list[int]:
        """Tokens of text of each document."""
        return [int(stop - start) - 1 for start, stop in pairwise(self.starts)]


def beginnings(ids: Integer[np.ndarray, "tokens"], starts: Int[np.ndarray, "boundaries"], budget: int) -> Part:
    """At most `budget` tokens of text: an equal number of each document's first ones, or of as many documents as fit.

    A split that fits is taken whole; a document gives no fewer than `SHORTEST` tokens, if it and the budget have them.
    """
    whole = int(np.diff(starts).sum()) - (len(starts) - 1)
    each = whole if whole <= budget else max(budget // (len(starts) - 1), SHORTEST)
    left, taken, documents = min(whole, budget), [], []
    for document, (start, stop) in enumerate(pairwise(starts.tolist())):
        count = min(stop - start - 1, each, left)
        if count > 0:
            taken.append(ids[start : start + 1 + count])
            documents.append(document)
            left -= count
    lengths = [len(some) for some in taken]
    joined = np.concatenate(taken) if taken else ids[:0]
    return Part(np.asarray(joined), np.cumsum([0, *lengths]), tuple(documents))


def count(part: Part, corpus: Documents, tokenizer: Tokenizer, cut: str) -> list[Counts]:
    """Words, bytes and characters of each document's part, from its text.

    Args:
        cut: where the tokenizer's kind allows a text to be cut (recurlm.tokens.tokenizer.Kind).

    Raises:
        InputError: the text has not as many tokens as the part says.
    """
    found = []
    for document, tokens in zip(part.documents, part.lengths(), strict=True):
        counts = Counts(tokenizer)
        counts.start_document()
        for text in safe_pieces(corpus.pieces(document), cut):
            if counts.tokens == tokens:
                break
            encoding = tokenizer.encode(text, add_special_tokens=False)
            left = tokens - counts.tokens
            if len(encoding.ids) > left:
                text = text[: encoding.offsets[left - 1][1]]
            counts.add(text, np.array(encoding.ids[:left]))
        if counts.tokens != tokens:
            raise InputError(f"data/tokens: document {document} is not that of data/corpus: tokenize again")
        found.append(counts)
    return found


def total(counts: Sequence[Counts]) -> dict[str, int]:
    """The sums, under the names that the manifest of a split gives them."""
    rows = [one.totals() for one in counts]
    return {name: sum(row[name] for row in rows) for name in rows[0]} if rows else {}
