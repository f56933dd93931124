"""Words as Penn Treebank files have them: split at white space, the rare ones `<unk>`, each line ended by `<eol>`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from recurlm.errors import InputError
from recurlm.tokens.special import BOS, EOL, MASK, UNK

CUT = r"(?<=\S)(?=[ \n])"  # at the end of a word


def learn(texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """The most frequent words of `texts`, ties in the order of their code points.

    Raises:
        InputError: there is no word in the texts.
    """
    specials = [BOS, MASK, UNK, EOL]
    steps: list[normalizers.Normalizer] = [normalizers.Lowercase()] if lowercase else []
    # A text that spells out `<bos>` or `<mask>` has a word that the vocabulary lacks, and no special token.
    steps += [normalizers.Replace(token, UNK) for token in (BOS, MASK)]
    normalizer = normalizers.Sequence([*steps, normalizers.Replace("\n", f" {EOL} ")])
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text).split())
    ranked = sorted(counts.keys() - set(specials), key=lambda word: (-counts[word], word))
    if not ranked:
        raise InputError("the train split holds no word: look at the text in data/corpus/train.txt")

    vocabulary = {token: id for id, token in enumerate([*specials, *ranked[: vocab_size - len(specials)]])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.normalizer = normalizer
    # The four control characters separate words for Python's str.split, which counts the words, but not for \s here.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\x1c-\x1f]+"), "removed")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex("^"), " "),
            decoders.Replace(Regex(f"^ {EOL}$"), "\n"),
            decoders.Fuse(),
            decoders.Replace("\n ", "\n"),
            decoders.Strip(" ", left=1, right=0),
        ]
    )
    return tokenizer
