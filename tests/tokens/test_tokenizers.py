"""What each kind of tokenizer promises, also when it is read back by plain Hugging Face tokenizers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from recurlm.config import Tokenize
from recurlm.errors import InputError
from recurlm.tokens.pieces import PIECE
from recurlm.tokens.special import BOS, EOL, MASK, UNK, special_ids
from recurlm.tokens.tokenizer import KINDS, LONG_WORD, learn_tokenizer, load_tokenizer

SPECIALS = [BOS, MASK, UNK, EOL]
# Text that holds the names of the special tokens, so that a merge could make them if any could.
TEXT = "the king's men, the king's 12 horses\nthe <bos> of it <|x|> naïve\n" * 3 + " ".join([*SPECIALS, "<bos>"] * 9)

# Any text, and text made of what the tokenizers and their special tokens are touchy about.
TEXTS = st.text() | st.lists(
    st.sampled_from(
        [*SPECIALS, "<bos>", "<|x|>", "<", ">", "Ġ", "Ċ", "'s", "\x1c", "\xa0", "é", "e\u0301", "語", "\x00"]
    )
    | st.text(max_size=3)
).map("".join)


def learn(kind: str, text: str = TEXT, size: int = 400, lowercase: bool = False) -> Tokenizer:
    return learn_tokenizer([text], Tokenize(kind=kind, vocab_size=size, lowercase=lowercase))


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


BPE, CHAR, WORD = learn("bpe"), learn("char"), learn("word")


@given(TEXTS)
@example("<bos>")
@example("<|x|>")
@example(BOS + MASK + UNK)
def test_bpe_gives_every_text_back(text: str) -> None:
    assert BPE.decode(ids(BPE, text)) == text


@given(TEXTS)
@example(" ".join(SPECIALS))
def test_no_text_becomes_bos_or_the_mask(text: str) -> None:
    for tokenizer in (BPE, CHAR, WORD):
        assert not {0, 1} & set(ids(tokenizer, text))


@given(TEXTS)
def test_a_character_is_a_token_and_a_new_one_is_unknown(text: str) -> None:
    known = set(TEXT)
    assert len(ids(CHAR, text)) == len(text)
    assert CHAR.decode(ids(CHAR, text)) == "".join(c if c in known else UNK for c in text)


@given(TEXTS)
def test_words_are_those_of_str_split_and_a_line_ends_with_eol(text: str) -> None:
    tokens = [WORD.id_to_token(id) for id in ids(WORD, text)]
    words = text.replace(BOS, UNK).replace(MASK, UNK).replace("\n", f" {EOL} ").split()
    assert tokens == [word if word in WORD.get_vocab() else UNK for word in words]


def test_words_are_joined_by_a_space_and_eos_by_a_line_end() -> None:
    tokenizer = learn("word", "\n a  b \n\n<eol>c a\tb a")
    assert tokenizer.decode(ids(tokenizer, "\n a  b \n\n<eol>c a\t?")) == "\na b\n\n<eol>c a <unk>"


def test_special_tokens_come_first() -> None:
    assert special_ids(BPE) == {"bos": 0, "mask": 1, "unk": None, "eol": None}
    assert special_ids(CHAR) == {"bos": 0, "mask": 1, "unk": 2, "eol": None}
    assert special_ids(WORD) == {"bos": 0, "mask": 1, "unk": 2, "eol": 3}


def test_characters_stand_in_the_order_of_their_code_points_whatever_the_size() -> None:
    tokenizer = learn("char", "ba\n𝄞é" * 300, size=260)
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary, key=vocabulary.__getitem__) == [BOS, MASK, UNK, "\n", "a", "b", "é", "𝄞"]


def test_frequent_words_come_first_and_ties_go_by_word() -> None:
    tokenizer = learn("word", "b c a c <unk> c b a\n<eol>")
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary, key=vocabulary.__getitem__)[4:] == ["c", "a", "b"]


def test_the_vocabulary_size_counts_special_tokens() -> None:
    words = " ".join(f"w{number} w{number} x{number % 7}" for number in range(500))
    assert learn("word", words, size=300).get_vocab_size() == 300
    assert learn("bpe", words, size=300).get_vocab_size() == 300
    assert learn("bpe", "a b c", size=300).get_vocab_size() == 258


def test_lower_case_joins_words_that_differ_in_nothing_else() -> None:
    tokenizer = learn("word", "The the ΣΑΣ", lowercase=True)
    assert ids(tokenizer, "THE the The") == [ids(tokenizer, "the")[0]] * 3
    assert UNK not in tokenizer.encode("ΣΑΣ").tokens


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_lower_case_is_refused_where_every_character_counts(kind: str) -> None:
    with pytest.raises(InputError, match=r"tokenize\.lowercase"):
        learn(kind, lowercase=True)


def test_a_train_split_without_a_word_is_refused() -> None:
    with pytest.raises(InputError, match="no word"):
        learn("word", " \n\t\n")


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_alone_is_the_tokenizer(kind: str, tmp_path: Path) -> None:
    tokenizer = learn(kind)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    for read in (Tokenizer.from_file(str(tmp_path / "tokenizer.json")), load_tokenizer(tmp_path / "tokenizer.json")):
        assert read.to_str() == tokenizer.to_str()
        assert read.get_added_tokens_decoder() == {}
        for text in (TEXT, " ".join(SPECIALS), "Überraschung 語\r\n\x00"):
            assert read.encode(text).ids == ids(tokenizer, text)
            assert read.decode(ids(tokenizer, text)) == tokenizer.decode(ids(tokenizer, text))


@pytest.mark.parametrize("kind", KINDS)
def test_every_process_learns_the_same_bytes(kind: str) -> None:
    program = (
        "import sys; from recurlm.config import Tokenize; from recurlm.tokens.tokenizer import learn_tokenizer; "
        "section = Tokenize(kind=sys.argv[1], vocab_size=400, lowercase=False); "
        "sys.stdout.buffer.write(learn_tokenizer([sys.argv[2]], section).to_str().encode())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program, kind, TEXT],
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads},
        ).stdout
        for seed, threads in (("1", "1"), ("2", "2"))
    }
    assert outputs == {learn(kind).to_str().encode()}


def test_a_broken_tokenizer_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(InputError, match="no such file"):
        load_tokenizer(path)
    path.write_text('{"model"')
    with pytest.raises(InputError, match="not a JSON file"):
        load_tokenizer(path)
    path.write_text('["model"]')
    with pytest.raises(InputError, match="not a file of Hugging Face tokenizers"):
        load_tokenizer(path)
    with pytest.raises(InputError, match="corrupted"):
        load_tokenizer(path, sha256="0" * 64)


def test_a_word_without_end_is_learned_from_in_parts() -> None:
    """In one word of that length the pairs would double up to it, in hours."""
    tokenizer = learn("bpe", "ab" * PIECE, size=300)
    assert max(map(len, tokenizer.get_vocab())) == LONG_WORD
    assert ids(tokenizer, "ab" * PIECE) == ids(tokenizer, "ab" * (LONG_WORD // 2)) * (2 * PIECE // LONG_WORD)
