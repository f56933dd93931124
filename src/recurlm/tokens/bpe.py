"""Byte-level byte-pair encoding (Sennrich et al. 2016; bytes and split as in GPT-2, Radford et al. 2019).

Its alphabet is the 256 byte values, so it reads and gives back every text exactly, and nothing is unknown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from recurlm.tokens.special import BOS, MASK

# Merges stay inside the matches of GPT-2's pattern,
#     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
# so a text may be cut wherever one match ends, if neither half then matches otherwise. That holds
#   - before a space or line end that follows a sign, because white space can only stand first in a match, or fill it;
#   - before a CJK mark of punctuation that follows a CJK letter, because no alternative goes from a letter to a mark.
# Left half: a run of signs stops there for the one reason or the other, and `(?!\S)`, the only look-ahead, looks just
# past white space, which ends before the cut. Right half: the pattern has no look-behind. The second rule is
# for languages without spaces. Python's \s knows four characters more than the pattern's (U+001C to U+001F): "follows
# a sign" is thus the narrower claim, and the white space behind the cut is one that both know.
CUT = r"(?:(?<=\S)(?=[ \n])|(?<=[\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5])(?=[、。，！？]))"


def learn(texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """Bytes and the most frequent merges; fewer than `vocab_size` where no pair of tokens is seen twice."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[BOS, MASK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    parts = json.loads(tokenizer.to_str())
    parts["added_tokens"] = []  # see special.py
    return Tokenizer.from_str(json.dumps(parts))
