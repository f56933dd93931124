"""Every character of the train split is a token; any other one becomes `<unk>`."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from recurlm.tokens.special import BOS, MASK, UNK

CUT = ""  # anywhere: no token is longer than a character


def learn(texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """The characters of `texts` in the order of their code points, all of them, whatever `vocab_size` says."""
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    vocabulary = {token: id for id, token in enumerate([BOS, MASK, UNK, *sorted(characters)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer
