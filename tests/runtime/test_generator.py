"""Promises of generation: seeded, streamed in whole characters, the same however it is cut into calls."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from configs import LESSON
from tiny_bundles import TinyBundles

from recurlm.errors import InputError
from recurlm.runtime import Bundle, Generator
from recurlm.runtime.generator import INPUTS, OPTIONAL

CAUSAL = list(LESSON)
KINDS = ["bpe", "char", "word"]
FREE = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
PROMPT = "king or night\nthe sea"


@pytest.fixture(scope="module")
def generator(bundles: TinyBundles) -> Generator:
    return Generator.from_bundle(bundles("lstm"))


def in_one_call(path: Path, prompt: str, count: int, temperature: float, top_k: int, top_p: float, seed: int) -> str:
    """The reference: generator.onnx asked once, up to the first `<bos>`, and the tokenizer's own decoder."""
    bundle = Bundle.open(path)
    tokenizer = bundle.vocabulary.tokenizer
    ids = tokenizer.encode(prompt).ids
    feeds = {
        "prompt": np.array([[0, *ids]]),
        "prompt_length": np.array([len(ids) + 1]),
        "max_new_tokens": np.array(count),
        "temperature": np.array([temperature], np.float32),
        "top_k": np.array([top_k]),
        "top_p": np.array([top_p], np.float32),
        "uniform": np.random.Generator(np.random.PCG64(seed)).random((1, count), np.float32),
    }
    results, _ = bundle.session("generator.onnx", INPUTS | OPTIONAL, None).run(["tokens"], feeds)
    new = [*results["tokens"][0].tolist(), 0]
    whole = tokenizer.decode([*ids, *new[: new.index(0)]])
    assert whole.startswith(prompt)
    return whole[len(prompt) :].rstrip("\ufffd")  # bytes of a character that was not finished


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", CAUSAL)
def test_text_is_that_of_one_call_of_the_graph(bundles: TinyBundles, variant: str, kind: str) -> None:
    generator = Generator.from_bundle(bundles(variant, kind))
    lengths = []
    for seed, count in [(1, 1), (2, 3), (3, 150), (4, 900), (5, 900)]:
        text = generator.generate(PROMPT, count, **FREE, seed=seed)
        assert text.rstrip("\ufffd") == in_one_call(bundles(variant, kind), PROMPT, count, **FREE, seed=seed)
        lengths.append(len(generator.bundle.vocabulary.tokenizer.encode(text)))
    assert min(lengths[-2:]) < 900  # some text ended by itself


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_joined_is_the_generated_text(bundles: TinyBundles, kind: str) -> None:
    generator = Generator.from_bundle(bundles("lstm", kind))
    pieces = list(generator.stream(PROMPT, 300, seed=7))
    assert "".join(pieces) == generator.generate(PROMPT, 300, seed=7)
    assert len(pieces) > 3
    assert all(pieces)


def test_the_first_text_is_streamed_before_the_last_is_drawn(generator: Generator) -> None:
    endless = generator.stream(PROMPT, 10**12, temperature=0, seed=1)
    assert next(endless)
    assert next(endless)


@pytest.mark.parametrize("kind", KINDS)
def test_a_streamed_text_never_holds_part_of_a_character(bundles: TinyBundles, kind: str) -> None:
    """What is broken in the pieces is broken in the whole text: the model drew bytes that are no character."""
    generator = Generator.from_bundle(bundles("gru", kind))
    pieces = list(generator.stream(PROMPT, 500, **FREE, seed=3))
    assert sum(piece.count("\ufffd") for piece in pieces) == generator.generate(PROMPT, 500, **FREE, seed=3).count(
        "\ufffd"
    )


def test_the_same_seed_gives_the_same_text_and_another_seed_another(generator: Generator) -> None:
    first = generator.generate(PROMPT, 50, seed=1)
    assert first == generator.generate(PROMPT, 50, seed=1)
    assert first != generator.generate(PROMPT, 50, seed=2)


def test_no_seed_gives_another_text_each_time(generator: Generator) -> None:
    assert len({generator.generate(PROMPT, 50, **FREE) for _ in range(3)}) == 3


def test_temperature_zero_needs_no_seed(generator: Generator) -> None:
    assert generator.generate(PROMPT, 50, temperature=0) == generator.generate(PROMPT, 50, temperature=0, seed=9)


@pytest.mark.parametrize("change", [{"temperature": 1e-9}, {"top_k": 1}, {"top_p": 1e-9}])
def test_settings_that_leave_one_token_take_the_likeliest(generator: Generator, change: dict[str, float]) -> None:
    likeliest = generator.generate(PROMPT, 50, temperature=0)
    assert generator.generate(PROMPT, 50, **(FREE | change), seed=4) == likeliest


def test_a_top_k_beyond_the_vocabulary_keeps_every_token(generator: Generator) -> None:
    assert generator.generate(PROMPT, 50, 1.0, 10**30, 1.0, 5) == generator.generate(PROMPT, 50, **FREE, seed=5)


@pytest.mark.parametrize("kind", KINDS)
def test_each_text_of_a_batch_is_what_its_prompt_gives_alone(bundles: TinyBundles, kind: str) -> None:
    generator = Generator.from_bundle(bundles("lstm", kind))
    prompts = ["king", PROMPT, "or", "not that night\n"]
    batch = generator.generate_batch(prompts, 400, **FREE, seed=11)
    assert batch == [generator.generate(prompt, 400, **FREE, seed=11 + row) for row, prompt in enumerate(prompts)]
    assert generator.generate_batch([]) == []


def test_words_are_joined_to_the_prompt_by_one_space(bundles: TinyBundles) -> None:
    generator = Generator.from_bundle(bundles("lstm", "word"))
    bare = generator.generate("to be", 20, seed=1)
    assert bare[:1].isspace()
    assert bare.count("  ") == 0
    assert generator.generate("to be ", 20, seed=1) == bare.removeprefix(" ")


def test_a_hundred_threads_on_one_generator_get_what_they_get_alone(generator: Generator) -> None:
    seeds = range(100)
    alone = [generator.generate(PROMPT, 6, seed=seed) for seed in seeds]
    with ThreadPoolExecutor(100) as pool:
        together = list(pool.map(lambda seed: [generator.generate(PROMPT, 6, seed=seed) for _ in range(100)], seeds))
    assert together == [[text] * 100 for text in alone]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0: 1 or more"),
        ({"temperature": -0.1}, "temperature is -0.1: 0 (the likeliest token) to 100"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0: above 0, up to 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"seed": -1}, "seed is -1: 0 or more"),
        ({"min_p": -0.1}, "min_p is -0.1: 0 (keeps every token) to 1"),
        ({"min_p": float("nan")}, "min_p is nan"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0: 0.01 to 100, 1 for none"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty is nan"),
        ({"prompt": "caf\udce9"}, "the prompt is not UTF-8"),
        ({"stop": ["a", ""]}, "stop: a sequence of 0 characters: 1 to 1024"),
        ({"stop": list("abcde")}, "stop: 5 sequences, at most 4"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_drawn(
    generator: Generator, setting: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        generator.stream(**({"prompt": "king"} | setting))  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "prompt", "named"),
    [
        ("char", "Let's eat 🍰 and 漢, 漢!", "'🍰', '漢', found in the prompt"),
        ("word", "the king drinks tea\nor drinks", "'drinks', 'tea', found in the prompt"),
        ("word", "the king, he", "'king,', 'he', found"),
    ],
)
def test_what_the_vocabulary_lacks_is_named(bundles: TinyBundles, kind: str, prompt: str, named: str) -> None:
    with pytest.raises(InputError, match="the vocabulary lacks") as caught:
        Generator.from_bundle(bundles("lstm", kind)).generate(prompt)
    assert named in str(caught.value)


def test_only_the_first_of_many_missing_characters_are_named(bundles: TinyBundles) -> None:
    with pytest.raises(InputError, match=r"'一', '丁', .* and 20 more, found"):
        Generator.from_bundle(bundles("lstm", "char")).generate("".join(map(chr, range(0x4E00, 0x4E00 + 30))))


def test_an_unknown_word_may_be_written_as_such(bundles: TinyBundles) -> None:
    assert Generator.from_bundle(bundles("lstm", "word")).generate("the <unk> is", 20, seed=1)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_prompt_begins_a_text(bundles: TinyBundles, kind: str) -> None:
    generator = Generator.from_bundle(bundles("lstm", kind))
    text = generator.generate("", 60, **FREE, seed=3)
    assert text
    assert text.rstrip("\ufffd") == in_one_call(bundles("lstm", kind), "", 60, **FREE, seed=3)
    assert generator.generate_batch(["", PROMPT], 60, **FREE, seed=3)[0] == text


@pytest.mark.parametrize("kind", KINDS)
def test_a_repetition_penalty_holds_over_the_calls_of_a_stream(bundles: TinyBundles, kind: str) -> None:
    """With a huge penalty every token that is new comes before one that was seen."""
    generator = Generator.from_bundle(bundles("lstm", kind))
    bundle = generator.bundle
    text = generator.generate("", 100, temperature=0, repetition_penalty=100.0)
    ids = bundle.vocabulary.tokenizer.encode(text).ids if kind == "char" else None
    assert text != generator.generate("", 100, temperature=0)
    if ids is not None:
        assert len(set(ids)) > 0.9 * len(ids)


def test_min_p_of_one_takes_the_likeliest(generator: Generator) -> None:
    likeliest = generator.generate(PROMPT, 50, temperature=0)
    assert generator.generate(PROMPT, 50, **FREE, min_p=1.0, seed=4) == likeliest


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_ends_before_a_stop_sequence(bundles: TinyBundles, kind: str) -> None:
    generator = Generator.from_bundle(bundles("lstm", kind))
    prompts = [PROMPT, "king", "or"]
    whole = generator.generate_batch(prompts, 150, **FREE, seed=5)
    stops = ["☃☃", whole[0][len(whole[0]) // 2 :][:3], whole[1][-2:] + "☃"]
    stopped = generator.generate_batch(prompts, 150, **FREE, seed=5, stop=stops)
    assert stopped == [text.partition(stops[1])[0] for text in whole]
    assert 0 < len(stopped[0]) < len(whole[0])
    assert stopped[1] == whole[1] or stops[1] in whole[1]  # what could have been a stop sequence comes at the end
    assert "".join(generator.stream(PROMPT, 150, **FREE, seed=5, stop=stops)) == stopped[0]
    assert generator.generate(PROMPT, 150, **FREE, seed=5, stop=stops[1]) == stopped[0]


def test_a_stop_sequence_ends_the_sampling_too(generator: Generator) -> None:
    stop = generator.generate(PROMPT, 50, temperature=0)[-3:]
    assert generator.generate(PROMPT, 10**12, temperature=0, stop=[stop])


def test_a_model_that_fills_masks_is_refused(bundles: TinyBundles) -> None:
    with pytest.raises(InputError, match="'bilstm' fills masks and cannot generate: try recurlm fill"):
        Generator.from_bundle(bundles("bilstm"))
