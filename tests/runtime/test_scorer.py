"""Promises of scoring: the pipeline's numbers, from a stream of any length."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from configs import LESSON
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundles import TOKENIZERS, WORDS, TinyBundles

from recurlm.config import Precision
from recurlm.errors import InputError
from recurlm.evaluation.perplexity import score as evaluate
from recurlm.objective import objective_of
from recurlm.runtime import Filler, Generator, Scorer
from recurlm.runtime import scorer as module
from recurlm.runtime.scorer import CONTEXT, FILE_WINDOW, WINDOW, windows
from recurlm.runtime.tokenizer import BLOCK, read_blocks, split_at_words

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KINDS = ["bpe", "char", "word"]


def verse(words: int) -> str:
    """Known words and line ends, many tokens of them."""
    draw = np.random.default_rng(0)
    return "".join(WORDS[draw.integers(len(WORDS))] + (" ", " ", "\n")[draw.integers(3)] for _ in range(words))


@pytest.mark.parametrize(
    ("variant", "kind"), [*((name, "bpe") for name in (*LESSON, "bilstm")), ("lstm", "char"), ("gru", "word")]
)
def test_a_text_scores_as_the_pipeline_scores_it(bundles: TinyBundles, variant: str, kind: str) -> None:
    text = verse(1500)
    score = Scorer.from_bundle(bundles(variant, kind)).score(text)
    ids = [0, *TOKENIZERS[kind].encode(text).ids]
    model = bundles.models[variant]
    section = WINDOW if objective_of(model).both_sides else len(ids)  # as one stream, or in windows
    expected = evaluate(model, np.array(ids), np.array([0, len(ids)]), section, CONTEXT, batch_size=1)
    assert score.tokens == expected.tokens == len(ids) - 1
    assert score.nats == pytest.approx(expected.nats, rel=1e-5)


@pytest.mark.parametrize("variant", ["lstm", "bilstm"])
def test_a_file_of_any_length_scores_as_its_text_does(bundles: TinyBundles, variant: str, tmp_path: Path) -> None:
    text = "naïve\r\n" + verse(4000) + "\n\n naïve 🍰 "
    path = tmp_path / "verse.txt"
    path.write_bytes(text.encode())
    assert path.stat().st_size > 2 * BLOCK
    scorer, read = Scorer.from_bundle(bundles(variant)), []
    from_file, from_text = scorer.score_file(path, read.append), scorer.score(text)
    # In windows each token but the first ones has less context: as the pipeline scores a long document.
    assert from_file.nats == pytest.approx(from_text.nats, abs=0.001 * from_text.tokens, rel=1e-7)
    assert from_file.protocol == ("cloze" if variant == "bilstm" else "windowed")
    assert replace(from_file, nats=0, protocol="cloze") == replace(from_text, nats=0, protocol="cloze")
    assert read == sorted(read)
    assert read[-1] == path.stat().st_size


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_windows_side_by_side_score_as_one_after_the_other(
    bundles: TinyBundles, precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "verse.txt"
    path.write_text(verse(4000), encoding="utf-8")
    for variant in ("lstm", "bilstm"):
        scorer = Scorer.from_bundle(bundles(variant, "bpe", precision))
        together = scorer.score_file(path)
        assert together.tokens > 2 * FILE_WINDOW
        with monkeypatch.context() as patch:
            patch.setattr(module, "FILE_ROWS", 1)
            patch.setattr(module, "ROWS", 1)
            assert scorer.score_file(path).nats == pytest.approx(together.nats, rel=1e-6)


def test_a_file_of_one_window_is_one_stream(bundles: TinyBundles, tmp_path: Path) -> None:
    path = tmp_path / "verse.txt"
    path.write_text(verse(500), encoding="utf-8")
    scorer = Scorer.from_bundle(bundles("lstm"))
    from_file, from_text = scorer.score_file(path), scorer.score(path.read_text(encoding="utf-8"))
    assert from_file.tokens <= FILE_WINDOW
    assert from_file.protocol == from_text.protocol == "streamed"
    assert from_file.nats == pytest.approx(from_text.nats, rel=1e-6)


def test_the_counts_are_those_of_the_text(bundles: TinyBundles) -> None:
    text = "the naïve king\nand his 🍰"
    score = Scorer.from_bundle(bundles("lstm", "char")).score(text)
    assert (score.tokens, score.characters, score.bytes, score.words) == (24, 24, len(text.encode()), 6)
    assert (score.unknown_tokens, score.out_of_vocabulary_words) == (1, 1)
    words = Scorer.from_bundle(bundles("lstm", "word")).score(text)
    assert (words.tokens, words.words, words.unknown_tokens, words.out_of_vocabulary_words) == (7, 6, 3, 3)


def test_every_number_follows_from_the_nats_and_a_count(bundles: TinyBundles) -> None:
    score = Scorer.from_bundle(bundles("lstm")).score("to be or not to be")
    assert score.perplexity_per_token == pytest.approx(math.exp(score.nats / score.tokens))
    assert score.perplexity_per_word == pytest.approx(math.exp(score.nats / 6))
    assert score.bits_per_byte == score.bits_per_character == pytest.approx(score.nats / math.log(2) / 18)


def test_text_without_words_has_no_perplexity_per_word(bundles: TinyBundles) -> None:
    assert Scorer.from_bundle(bundles("lstm")).score("\n\n").perplexity_per_word is None


def test_the_numbers_of_a_cloze_model_say_that_they_are_pseudo(bundles: TinyBundles) -> None:
    causal = Generator.from_bundle(bundles("lstm")).score("to be").metrics()
    cloze = Filler.from_bundle(bundles("bilstm")).score("to be").metrics()
    assert (causal["protocol"], cloze["protocol"]) == ("streamed", "cloze")
    assert "perplexity_per_token" in causal
    assert "pseudo_perplexity_per_token" in cloze
    assert not any(name in cloze for name in ("nats", "perplexity_per_token", "bits_per_byte"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: there is nothing to score"),
        (b"the \xff king", r"not UTF-8 \(byte 4\)"),
        (b"a" * (BLOCK - 1) + "é".encode() + b"\xe9.", rf"not UTF-8 \(byte {BLOCK + 1}\)"),
        (b"the king \xc3", r"not UTF-8 \(byte 9\)"),
    ],
)
def test_a_file_that_is_no_text_is_refused(bundles: TinyBundles, tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        Scorer.from_bundle(bundles("lstm")).score_file(path)


def test_a_file_that_is_not_there_is_refused(bundles: TinyBundles, tmp_path: Path) -> None:
    scorer = Scorer.from_bundle(bundles("lstm"))
    with pytest.raises(InputError, match=r"nowhere\.txt: No such file"):
        scorer.score_file(tmp_path / "nowhere.txt")
    with pytest.raises(InputError, match="Is a directory"):
        scorer.score_file(tmp_path)


def test_an_empty_text_is_refused(bundles: TinyBundles) -> None:
    for variant in ("lstm", "bilstm"):
        with pytest.raises(InputError, match="the text is empty"):
            Scorer.from_bundle(bundles(variant)).score("")


@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(st.one_of(TEXT, st.text(" \n\tab'.é漢\x1c"))))
def test_pieces_have_the_tokens_of_the_whole(kind: str, texts: list[str]) -> None:
    whole, pieces = "".join(texts), list(split_at_words(texts))
    assert "".join(pieces) == whole
    ids = [id for piece in pieces for id in TOKENIZERS[kind].encode(piece).ids]
    assert ids == TOKENIZERS[kind].encode(whole).ids
    assert sum(len(piece.split()) for piece in pieces) == len(whole.split())


def test_pieces_are_short_where_the_text_has_words() -> None:
    assert max(map(len, split_at_words([verse(100)] * 20))) < 2 * len(verse(100))


@given(content=st.binary(max_size=40), place=st.integers(-20, 20))
def test_a_file_is_read_as_python_decodes_it(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, place: int
) -> None:
    data = b"." * (BLOCK + place) + content
    path = tmp_path_factory.mktemp("read") / "text.txt"
    path.write_bytes(data)
    try:
        expected = data.decode()
    except UnicodeDecodeError as error:
        with pytest.raises(InputError, match=rf"\(byte {error.start}\)"):
            list(read_blocks(path))
    else:
        assert "".join(read_blocks(path)) == expected


@given(sizes=st.lists(st.integers(0, 2000), max_size=8), after=st.sampled_from([0, CONTEXT]))
def test_windows_score_every_token_once_with_its_context(sizes: list[int], after: int) -> None:
    pieces, next_id = [], 1
    for size in sizes:
        pieces.append(list(range(next_id, next_id + size)))
        next_id += size
    scored: list[int] = []
    for tokens, part in windows(0, pieces, WINDOW, CONTEXT, after):
        here = tokens[part]
        scored += here
        assert len(tokens) <= WINDOW + CONTEXT + after
        assert tokens[0] == max(0, here[0] - CONTEXT)
        assert tokens[-1] == min(next_id - 1, here[-1] + after)
    assert scored == list(range(1, next_id))
