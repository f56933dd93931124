"""The page's own code, under node, gives what Python gives: random numbers, tokens, texts, filled masks, surprisal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from configs import LESSON
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matrix_states import with_matrix_states
from node_process import Node
from tiny_bundles import TinyBundles

from recurlm.errors import InputError
from recurlm.runtime import Bundle, Filler, Generator, Scorer
from recurlm.runtime.filler import AllowedTokens
from recurlm.runtime.sampling import seeded_rng, uniforms

pytestmark = pytest.mark.xdist_group("playground")

CAUSAL = list(LESSON)
CLOZE = ["bilstm"]
KINDS = ["bpe", "char", "word"]
PROMPT = "king or night\nthe sea"
FREE = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
SETTINGS: list[dict[str, Any]] = [
    FREE,
    {"temperature": 0.0, "top_k": 0, "top_p": 1.0},
    {"temperature": 0.7, "top_k": 5, "top_p": 0.9},
    {"temperature": 1.3, "top_k": 0, "top_p": 1.0, "min_p": 0.05, "repetition_penalty": 1.2},
]
HARD = [
    "",
    " ",
    "\n",
    "\r\n\t \x0b\x0c",
    "  two  spaces \n\n and lines\n ",
    "naïve café n\u0303 Ωμέγα ΣΑΣ İstanbul ǅ ß",
    "I'll we've they're 'tis don't 's's",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1ea\U0001f1fa e\u0301",
    "１２３ ½ Ⅷ ৩ 12a3 _x_ --",
    "日本語、テスト。 العربية עברית",
    "\x00\x1c\x1d\x1e\x1f\x85\xa0\u2028\u2029\u3000\ufeff\u200b",
    "<eol> <unk> <bos> <mask>",
    "\ud800",
]
EVERY_TEXT = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \n\t'aeking.,12\x85\xa0\ufeff\x1c")))
EASY = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def camel(setting: dict[str, Any]) -> dict[str, Any]:
    return {
        "temperature": setting["temperature"],
        "topK": setting["top_k"],
        "topP": setting["top_p"],
        "minP": setting.get("min_p", 0),
        "repetitionPenalty": setting.get("repetition_penalty", 1),
    }


@EASY
@given(st.integers(0, 2**200) | st.integers(0, 2**33), st.lists(st.integers(0, 9), max_size=6))
def test_a_seed_stands_for_the_numbers_that_numpy_draws(node: Node, seed: int, counts: list[int]) -> None:
    rng = seeded_rng(seed)
    assert node.ask("uniform", str(seed), counts) == [uniforms(rng, count).tolist() for count in counts]


def test_many_numbers_of_a_seed_are_numpys(node: Node) -> None:
    assert node.ask("uniform", "7", [20_000]) == [uniforms(seeded_rng(7), 20_000).tolist()]


def encoded(bundle: Bundle, text: str) -> list[int] | None:
    try:
        return bundle.vocabulary.known_ids(text, "the text")
    except InputError:
        return None


def asked(node: Node, *question: Any) -> Any:
    try:
        return node.ask(*question)
    except ValueError as refusal:
        assert "vocabulary lacks" in str(refusal) or "not UTF-8" in str(refusal)  # noqa: PT017
        return None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", HARD)
def test_hard_texts_have_pythons_tokens(node: Node, bundles: TinyBundles, kind: str, text: str) -> None:
    folder = bundles("lstm", kind)
    assert asked(node, "ids", str(folder), text) == encoded(Bundle.open(folder), text)


@pytest.mark.parametrize("kind", KINDS)
@EASY
@given(text=EVERY_TEXT)
def test_any_text_has_pythons_tokens(node: Node, bundles: TinyBundles, kind: str, text: str) -> None:
    folder = bundles("lstm", kind)
    assert asked(node, "ids", str(folder), text) == encoded(Bundle.open(folder), text)


def test_every_character_stands_in_pythons_tokens(node: Node, bundles: TinyBundles) -> None:
    """Letters, digits, signs and white space of all planes part words alike, whatever stands beside them."""
    folder = bundles("lstm")
    characters = [chr(code) for code in range(0x3100) if not 0xD800 <= code < 0xE000]
    text = "".join(f"a{character} {character}1{character}{character} ." for character in characters)
    assert asked(node, "ids", str(folder), text) == encoded(Bundle.open(folder), text)


@pytest.mark.parametrize("kind", KINDS)
@EASY
@given(data=st.data())
def test_any_tokens_are_pythons_text(node: Node, bundles: TinyBundles, kind: str, data: st.DataObject) -> None:
    folder = bundles("lstm", kind)
    vocabulary = Bundle.open(folder).vocabulary
    ids = data.draw(st.lists(st.integers(0, 299), max_size=40))
    last = data.draw(st.integers(0, 299))
    before = data.draw(st.sampled_from(["", "king ", "king", "sea\n", "a\x85"]))
    decoder = vocabulary.decoder(before, last)
    assert node.ask("decode", str(folder), before, last, ids) == [decoder.feed([id]) for id in ids]
    assert node.ask("text", str(folder), ids) == vocabulary.text(ids)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", CAUSAL)
def test_the_same_seed_gives_pythons_text(
    node: Node, bundles: TinyBundles, variant: str, kind: str, setting: dict[str, Any]
) -> None:
    folder = bundles(variant, kind)
    generator = Generator.from_bundle(folder)
    for seed, prompt in [(1, PROMPT), (2, ""), (2**40, "the ")]:
        text = node.ask("generate", str(folder), prompt, 150, camel(setting), str(seed))["text"]
        assert text == generator.generate(prompt, 150, seed=seed, **setting)


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("variant", CAUSAL)
def test_in_8_and_4_bits_too_the_same_seed_gives_pythons_text(
    node: Node, bundles: TinyBundles, variant: str, precision: Any
) -> None:
    """A thousand tokens: a state that was rounded otherwise but once would lead to another text long before."""
    folder = bundles(variant, "bpe", precision)
    generator = Generator.from_bundle(folder)
    for seed in (1, 2):
        text = node.ask("generate", str(folder), PROMPT, 1000, camel(FREE), str(seed))["text"]
        assert text == generator.generate(PROMPT, 1000, seed=seed, **FREE)


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("variant", [*CAUSAL, *CLOZE])
def test_the_graph_that_the_browser_runs_is_the_bundles(
    node: Node, bundles: TinyBundles, tmp_path: Path, variant: str, precision: Any
) -> None:
    """Products of 8 bits have the same bits in fp32, for both are exact."""
    folder = bundles(variant, "bpe", precision)
    node.ask("rewrite", str(folder / "step.onnx"), str(tmp_path / "step.onnx"))
    before, after = (onnxruntime.InferenceSession(str(path / "step.onnx")) for path in (folder, tmp_path))
    rng = np.random.default_rng(1)
    feeds = {"token": rng.integers(0, 300, 64)} | {
        value.name: rng.uniform(-1, 1, (64, *value.shape[1:])).astype(np.float32) for value in before.get_inputs()[1:]
    }
    for one, other in zip(before.run(None, feeds), after.run(None, feeds), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", CLOZE)
def test_masks_get_pythons_words(node: Node, bundles: TinyBundles, variant: str, kind: str) -> None:
    folder = bundles(variant, kind)
    filler = Filler.from_bundle(folder)
    texts = ["king or ___ the sea", "___ night ___\n___ be", "to ___"]
    for text in texts:
        for seed, setting in [(1, SETTINGS[1]), (5, FREE), (6, SETTINGS[2])]:
            filled = node.ask("fill", str(folder), text, camel(setting), str(seed))
            assert filled["text"] == filler.fill(text, seed=seed, **setting)


def test_a_filler_that_is_stopped_makes_no_further_call(node: Node, bundles: TinyBundles) -> None:
    question = (str(bundles("bilstm")), "to ___ or ___ to be", camel(FREE))
    whole = node.ask("stopped", *question, 1000)
    assert not whole["stopped"]
    assert whole["calls"] > 3
    for calls in (1, 3):
        assert node.ask("stopped", *question, calls) == {"calls": calls, "stopped": True}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_that_cuts_or_pads_is_refused(node: Node, bundles: TinyBundles, tmp_path: Path, kind: str) -> None:
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    padded = {"strategy": {"Fixed": 7}, "direction": "Right", "pad_id": 0, "pad_token": "<bos>"}
    for name, step in (("truncation", cut), ("padding", padded)):
        folder = shutil.copytree(bundles("lstm", kind), tmp_path / name)
        parts = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        (folder / "tokenizer.json").write_text(json.dumps(parts | {name: step}), encoding="utf-8")
        with pytest.raises(ValueError, match=rf"tokenizer\.json is not of kind {kind} as this page knows it"):
            node.ask("ids", str(folder), "to be")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_tokens_may_stand_in_a_word(node: Node, bundles: TinyBundles, kind: str) -> None:
    folder = bundles("lstm", kind)
    allowed = AllowedTokens.of(Bundle.open(folder).vocabulary)
    assert node.ask("allowed", str(folder)) == [each.astype(int).tolist() for each in allowed]


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("variant", [*CAUSAL, *CLOZE])
def test_surprisal_is_what_the_scorer_says(node: Node, bundles: TinyBundles, variant: str, precision: Any) -> None:
    folder = bundles(variant, "bpe", precision)
    text = "king, or that night the sea is.\n" * 3
    scores = node.ask("score", str(folder), encoded(Bundle.open(folder), text))
    nats = sum(score["bits"] for score in scores) * np.log(2)
    assert nats == pytest.approx(Scorer.from_bundle(folder).score(text).nats, rel=1e-5)
    for score in scores:
        probabilities = [each["probability"] for each in score["alternatives"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert (probabilities[0] == pytest.approx(2 ** -score["bits"])) == (score["rank"] == 1)


def evenly(units: np.ndarray[Any, Any], count: int) -> list[float]:
    return [float(units[at * len(units) // count]) for at in range(count)]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("variant", CAUSAL)
def test_shown_are_the_last_layers_state_and_gates(
    node: Node, bundles: TinyBundles, variant: str, precision: Any
) -> None:
    bundle = Bundle.open(bundles(variant, "bpe", precision))
    ids = encoded(bundle, "king or that night the sea")
    assert ids
    step = bundle.session("step.onnx", {"token"}, None)
    gates = [name for name in step.output_names if name.startswith("gate.layer1.")]
    assert len(gates) == {"rnn": 0, "gru": 2, "lstm": 3}[variant]
    _, state = step.run([], {"token": np.array([bundle.vocabulary.bos])})
    for id, score in zip(ids, node.ask("score", str(bundle.folder), ids), strict=True):
        results, state = step.run(gates, {"token": np.array([id])}, state)
        expected = [evenly(state["layer1.h"][0], 12), *(evenly(results[gate][0], 8) for gate in gates)]
        assert len(score["activity"]) == len(expected)
        for shown, wanted in zip(score["activity"], expected, strict=True):
            assert shown == pytest.approx(wanted, abs=1e-6 if precision == "fp32" else 0)


def test_of_a_cloze_model_the_gates_of_both_sides_are_shown(node: Node, bundles: TinyBundles) -> None:
    """Each side walks toward the token, and its gates are those with which it reads it."""
    bundle = Bundle.open(bundles("bilstm"))
    ids = encoded(bundle, "king or that night the sea")
    assert ids
    bos = bundle.vocabulary.bos
    step = bundle.session("step.onnx", {"token"}, None)
    forget = {}
    for side, text in (("left", [bos, *ids]), ("right", [bos, *ids][::-1])):
        state, rows = step.zero_state(1), []
        for id in text:
            results, state = step.run([f"gate.{side}.layer1.forget"], {"token": np.array([id])}, state)
            rows.append(results[f"gate.{side}.layer1.forget"][0])
        forget[side] = rows if side == "left" else rows[::-1]
    for at, score in enumerate(node.ask("score", str(bundle.folder), ids), start=1):
        both = np.concatenate([forget["left"][at], forget["right"][at]])
        assert score["activity"][2] == pytest.approx(evenly(both, 8), abs=1e-6)


@pytest.mark.parametrize("variant", ["lstm", "bilstm"])
def test_states_of_any_rank_change_nothing(node: Node, bundles: TinyBundles, tmp_path: Path, variant: str) -> None:
    flat, matrix = bundles(variant), with_matrix_states(bundles(variant), tmp_path / variant)
    ids = encoded(Bundle.open(flat), "king or that night the sea")
    assert node.ask("score", str(matrix), ids) == node.ask("score", str(flat), ids)
    if variant == "lstm":
        question = (PROMPT, 100, camel(FREE), "1")
        assert node.ask("generate", str(matrix), *question) == node.ask("generate", str(flat), *question)
    else:
        question = ("king ___ the sea", camel(FREE), "1")
        assert node.ask("fill", str(matrix), *question) == node.ask("fill", str(flat), *question)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"temperature": -1}, "temperature"), ({"topK": 1.5}, "top-k"), ({"topP": 0}, "top-p"), ({"minP": 2}, "min-p")],
)
def test_a_setting_out_of_range_is_refused_by_name(
    node: Node, bundles: TinyBundles, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        node.ask("generate", str(bundles("lstm")), "king", 5, camel(FREE) | change, "1")
