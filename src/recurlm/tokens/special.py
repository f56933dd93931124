"""Tokens that stand for something other than a stretch of text.

They are plain entries of the vocabulary and no "added tokens", which Hugging Face tokenizers would look for in every
text it reads. `START` and `BLANK` hold a space: char makes tokens of one character, bpe writes a space as Ġ, and word
splits at spaces, so no text can ever become one of them. `UNKNOWN` is longer than a character, so that char cannot meet
it either. For word, a `<unk>` or `<eos>` that stands in the text as a word means just that, as in Penn Treebank files.
"""

from __future__ import annotations

from tokenizers import Tokenizer

START = "<start of text>"  # given at a document's start; sampling it means that the text has ended
BLANK = "<blank to fill>"  # what a cloze model reads where a token is hidden
UNKNOWN = "<unk>"
END_OF_LINE = "<eos>"


def special_ids(tokenizer: Tokenizer) -> dict[str, int | None]:
    """The ids of the special tokens; None where this kind of tokenizer has none.

    bpe has no entry `<unk>`: its pre-tokenizer parts letters from other signs, so no merge can make one.
    """
    names = {"start": START, "blank": BLANK, "unknown": UNKNOWN, "end_of_line": END_OF_LINE}
    return {role: tokenizer.token_to_id(name) for role, name in names.items()}
