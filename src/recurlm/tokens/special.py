"""Tokens that stand for something other than a stretch of text.

They are plain entries of the vocabulary and no "added tokens", which Hugging Face tokenizers would look for in every
text it reads. No text becomes `<bos>` or `<mask>`: char makes tokens of one character, the pre-tokenizer of bpe parts
letters from other signs, so that no merge makes one, and word reads either as `<unk>`. For word, `<unk>` and `<eol>` in
a text mean just that, as in Penn Treebank files.
"""

from __future__ import annotations

from tokenizers import Tokenizer

BOS = "<bos>"  # given at a document's start; sampling it means that the text has ended
MASK = "<mask>"  # what a cloze model reads where a token is hidden
UNK = "<unk>"
EOL = "<eol>"


def special_ids(tokenizer: Tokenizer) -> dict[str, int | None]:
    """The ids of the special tokens; None where this kind of tokenizer has none.

    bpe has no `<unk>`: its alphabet is all bytes.
    """
    names = {"bos": BOS, "mask": MASK, "unk": UNK, "eol": EOL}
    return {role: tokenizer.token_to_id(name) for role, name in names.items()}
