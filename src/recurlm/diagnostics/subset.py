"""The first tokens of a split's documents, and their counts of words, bytes and characters."""

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

MIN_DOCUMENT_TOKENS = 2048  # read of each document, where it has as many: memory shows only in long texts


@dataclass(frozen=True)
class Subset:
    """The first tokens of some documents, as the files of a split hold them: `<bos>` first."""

    ids: Integer[np.ndarray, "tokens"]
    starts: Int[np.ndarray, "boundaries"]
    documents: tuple[int, ...]  # their numbers in the split

    @property
    def tokens(self) -> int:
        """Tokens of text, without `<bos>`."""
        return len(self.ids) - len(self.documents)

    def lengths(self) -> list[int]:
        """Tokens of text of each document."""
        return [int(stop - start) - 1 for start, stop in pairwise(self.starts)]


def head(ids: Integer[np.ndarray, "tokens"], starts: Int[np.ndarray, "boundaries"], max_tokens: int) -> Subset:
    """At most `max_tokens` tokens of text: equally many of each document, or of as many documents as fit.

    A split that fits is taken whole. A document gives at least `MIN_DOCUMENT_TOKENS`, if there are as many.
    """
    whole = int(np.diff(starts).sum()) - (len(starts) - 1)
    each = whole if whole <= max_tokens else max(max_tokens // (len(starts) - 1), MIN_DOCUMENT_TOKENS)
    left, taken, documents = min(whole, max_tokens), [], []
    for document, (start, stop) in enumerate(pairwise(starts.tolist())):
        count = min(stop - start - 1, each, left)
        if count > 0:
            taken.append(ids[start : start + 1 + count])
            documents.append(document)
            left -= count
    lengths = [len(document) for document in taken]
    joined = np.concatenate(taken) if taken else ids[:0]
    return Subset(np.asarray(joined), np.cumsum([0, *lengths]), tuple(documents))


def count_text(subset: Subset, corpus: Documents, tokenizer: Tokenizer, cut: str) -> list[Counts]:
    """Words, bytes and characters of each document of a subset, counted in its text.

    Args:
        cut: where the tokenizer's kind allows a text to be split (recurlm.tokens.tokenizer.Kind).

    Raises:
        InputError: the text does not have as many tokens as the subset.
    """
    documents = []
    for document, tokens in zip(subset.documents, subset.lengths(), strict=True):
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
        documents.append(counts)
    return documents


def sum_counts(counts: Sequence[Counts]) -> dict[str, int]:
    """The sums over documents, under the names of a split's manifest."""
    rows = [document.totals() for document in counts]
    return {name: sum(row[name] for row in rows) for name in rows[0]} if rows else {}
