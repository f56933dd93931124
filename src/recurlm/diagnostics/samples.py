"""Texts sampled at several temperatures, with measures of their quality, and held-out text of the same length.

A model that generates continues passages of the validation split. All temperatures draw with the same uniform numbers,
so that nothing but the temperature differs. Neither `<bos>` nor `<mask>` is drawn: texts have equally many tokens.
A cloze model fills: of each passage every n-th token is masked, all at once, and drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from recurlm import config
from recurlm.diagnostics import texts
from recurlm.diagnostics.texts import Copies, words
from recurlm.evaluation.perplexity import exact
from recurlm.export.sampling import divisor, draw, scale, suppression, threshold
from recurlm.model import LanguageModel
from recurlm.objective import objective_of

Passages = Int[np.ndarray, "samples time"]


def generate(
    model: LanguageModel,
    prompts: Passages,
    uniform: Float[np.ndarray, "samples tokens"],
    temperature: float,
    never: list[int],
) -> Passages:
    """The tokens after each prompt, one a uniform number, from a zero state."""
    with exact(model):
        tokens = _tensor(model, prompts)
        logits, state = model(tokens, model.initial_state(len(tokens)))
        logits, drawn = logits[:, -1], []
        for numbers in torch.from_numpy(uniform).unbind(1):
            token = _draw(logits, numbers, temperature, never)
            drawn.append(token)
            logits, state = model.step(token.to(tokens.device), state)
    return torch.stack(drawn, dim=1).numpy()


def fill(
    model: LanguageModel,
    passages: Passages,
    hidden: Int[np.ndarray, "places"],
    uniform: Float[np.ndarray, "samples places"],
    temperature: float,
    blank: int,
    never: list[int],
) -> Passages:
    """What a cloze model draws at the hidden places of each passage: its first token is `<bos>`'s place, and read."""
    with exact(model):
        tokens = _tensor(model, passages).clone()  # on a CPU it is the caller's own memory
        tokens[:, hidden] = blank
        logits, _ = model(tokens, model.initial_state(len(tokens)))
        drawn = [
            _draw(logits[:, place], torch.from_numpy(uniform[:, column]), temperature, never)
            for column, place in enumerate(hidden.tolist())
        ]
    return torch.stack(drawn, dim=1).numpy()


def _draw(
    logits: Float[Tensor, "samples vocabulary"], uniform: Float[Tensor, "samples"], temperature: float, never: list[int]
) -> Int[Tensor, "samples"]:
    temperatures = torch.full((len(logits),), temperature)
    scaled = scale(logits.cpu(), divisor(temperatures), suppression(logits.shape[1], never))
    return draw(scaled, threshold(uniform, temperatures))


def _tensor(model: LanguageModel, tokens: Passages) -> Int[Tensor, "samples time"]:
    return torch.from_numpy(tokens).to(model.embedding.weight.device)


def quality(written: list[str], copies: Copies, ngram_size: int) -> dict[str, Any]:
    """The measures of some texts: of all together, and of the longest copied run the words themselves."""
    split = [words(text) for text in written]
    every = [word for text in split for word in text]
    longest, run = 0, ""
    lengths = []
    for text in split:
        length, at = copies.longest(text)
        lengths.append(length)
        if length > longest:
            longest, run = length, " ".join(text[at : at + length])
    return {
        "words": len(every),
        **{f"distinct_{n}": texts.distinct(split, n) for n in (1, 2, 3)},
        f"repeated_{ngram_size}_gram_fraction": texts.repetition(split, ngram_size),
        "real_word_fraction": sum(map(copies.knows, every)) / len(every) if every else None,
        "longest_copied_words": longest,
        "longest_copied": run,
        "mean_longest_copied_words": float(np.mean(lengths)) if lengths else None,
    }


def continued(
    model: LanguageModel,
    passages: Passages,
    tokenizer: Tokenizer,
    copies: Copies,
    never: list[int],
    settings: config.Text,
    seed: int,
) -> list[dict[str, Any]]:
    """Generated texts at each temperature, and their measures, the prompt left out of these."""
    prompts = passages[:, : settings.prompt_tokens]
    uniform = np.random.default_rng(seed).random((len(passages), passages.shape[1] - prompts.shape[1]), np.float32)
    rows = []
    for temperature in settings.temperatures:
        drawn = _decode(tokenizer, generate(model, prompts, uniform, temperature, never))
        pairs = zip(_decode(tokenizer, prompts), drawn, strict=True)
        rows.append(
            {
                "temperature": temperature,
                **quality(drawn, copies, settings.ngram_size),
                "texts": [{"prompt": prompt, "text": text} for prompt, text in pairs],
            }
        )
    return rows


def filled(
    model: LanguageModel,
    passages: Passages,
    tokenizer: Tokenizer,
    copies: Copies,
    never: list[int],
    blank: int,
    settings: config.Text,
    seed: int,
) -> list[dict[str, Any]]:
    """A cloze model's fills at each temperature: most of such a text was given, which the measures are few for."""
    hidden = np.arange(settings.mask_every - 1, passages.shape[1], settings.mask_every)
    uniform = np.random.default_rng(seed).random((len(passages), len(hidden)), np.float32)
    rows = []
    for temperature in settings.temperatures:
        drawn = fill(model, passages, hidden, uniform, temperature, blank, never)
        whole = passages.copy()
        whole[:, hidden] = drawn
        every = [word for text in _decode(tokenizer, whole) for word in words(text)]
        rows.append(
            {
                "temperature": temperature,
                "filled_tokens": drawn.size,
                "fill_accuracy": float((drawn == passages[:, hidden]).mean()),
                "real_word_fraction": sum(map(copies.knows, every)) / len(every) if every else None,
                "texts": [{"parts": _parts(tokenizer, row, hidden)} for row in whole],
            }
        )
    return rows


def _parts(
    tokenizer: Tokenizer, row: Int[np.ndarray, "time"], hidden: Int[np.ndarray, "places"]
) -> list[dict[str, Any]]:
    """A passage as given and filled stretches in turn."""
    cuts = np.split(row, np.sort(np.concatenate([hidden, hidden + 1])))
    texts_of = tokenizer.decode_batch([cut.tolist() for cut in cuts], skip_special_tokens=False)
    return [{"text": text, "filled": number % 2 == 1} for number, text in enumerate(texts_of) if text]


def measure(
    model: LanguageModel,
    passages: Passages,
    tokenizer: Tokenizer,
    train: Iterable[str],
    special: dict[str, Any],
    settings: config.Text,
    seed: int,
) -> dict[str, Any]:
    """Texts at each temperature with their measures, and the measures of the text that the passages really are.

    Args:
        passages: held-out text of `prompt_tokens` + `tokens` each; none where no document is that long.
        train: the documents in which copies are looked for, and words that are real.
    """
    copies = Copies(train)
    never = [special["bos"], special["mask"]]
    common = (model, passages, tokenizer, copies, never)
    fills = objective_of(model).both_sides
    rows: list[dict[str, Any]] = []
    if len(passages):
        rows = filled(*common, special["mask"], settings, seed) if fills else continued(*common, settings, seed)
    truth = passages if fills else passages[:, settings.prompt_tokens :]
    return {
        "protocol": "filled" if fills else "continued",
        "samples": len(passages),
        "prompt_tokens": None if fills else settings.prompt_tokens,
        "tokens": truth.shape[1],
        "mask_every": settings.mask_every if fills else None,
        "seed": seed,
        "word": "a run of letters and digits with inner apostrophes and hyphens, in lower case",
        "copied_from": "train",
        "temperatures": rows,
        "held_out_text": quality(_decode(tokenizer, truth), copies, settings.ngram_size),
    }


def _decode(tokenizer: Tokenizer, rows: Passages) -> list[str]:
    texts_of: list[str] = tokenizer.decode_batch(rows.tolist(), skip_special_tokens=False)
    return texts_of
