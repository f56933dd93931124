"""Texts sampled at several temperatures, their measures, and those of held-out text of the same length.

A causal model continues passages of the validation split. All temperatures draw with the same uniform numbers, so that
only the temperature differs. `<bos>` and `<mask>` are suppressed: texts have equally many tokens. A cloze model fills:
every n-th token of a passage is masked, all at once, and drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from recurlm import config
from recurlm.diagnostics.texts import CopyFinder, distinct, repetition, words
from recurlm.evaluation.perplexity import exact
from recurlm.export.sampling import divisor, draw, scale, suppression, threshold, weights
from recurlm.model import LanguageModel
from recurlm.objective import objective_of

Passages = Int[np.ndarray, "samples time"]
Row = dict[str, Any]


class Drawn(NamedTuple):
    """The texts of one temperature, what is said of them first, and how they are shown."""

    texts: list[str]
    about: Row
    shown: list[Row]


def generate(
    model: LanguageModel,
    prompts: Passages,
    uniform: Float[np.ndarray, "samples tokens"],
    temperature: float,
    suppressed: list[int],
) -> Passages:
    """The tokens after each prompt, one for each uniform number, from a zero state."""
    with exact(model):
        tokens = torch.from_numpy(prompts).to(model.embedding.weight.device)
        logits, state = model(tokens, model.initial_state(len(tokens)))
        logits, drawn = logits[:, -1], []
        for numbers in torch.from_numpy(uniform).unbind(1):
            token = _draw(logits, numbers, temperature, suppressed)
            drawn.append(token)
            logits, state = model.step(token.to(tokens.device), state)
    return torch.stack(drawn, dim=1).numpy()


def fill(
    model: LanguageModel,
    passages: Passages,
    masked: Int[np.ndarray, "masks"],
    uniform: Float[np.ndarray, "samples masks"],
    temperature: float,
    mask: int,
    suppressed: list[int],
) -> Passages:
    """The tokens that a cloze model draws at the masked positions of each passage."""
    hidden = passages.copy()
    hidden[:, masked] = mask
    with exact(model):
        logits, _ = model(
            torch.from_numpy(hidden).to(model.embedding.weight.device), model.initial_state(len(passages))
        )
        drawn = [
            _draw(logits[:, position], torch.from_numpy(uniform[:, column]), temperature, suppressed)
            for column, position in enumerate(masked.tolist())
        ]
    return torch.stack(drawn, dim=1).numpy()


def _draw(
    logits: Float[Tensor, "samples vocabulary"],
    uniform: Float[Tensor, "samples"],
    temperature: float,
    suppressed: list[int],
) -> Int[Tensor, "samples"]:
    temperatures = torch.full((len(logits),), temperature)
    scaled = scale(logits.cpu(), divisor(temperatures), suppression(logits.shape[1], suppressed))
    return draw(weights(scaled), threshold(uniform, temperatures))


def measure(
    model: LanguageModel,
    passages: Passages,
    tokenizer: Tokenizer,
    train: Iterable[Iterable[str]],
    special: dict[str, Any],
    settings: config.Text,
    seed: int,
) -> dict[str, Any]:
    """Texts at each temperature with their measures, and the measures of the held-out text.

    Args:
        passages: held-out text of `prompt_tokens` + `num_tokens` tokens each; none where no document is that long.
        train: the documents in which copies and words are looked up, each in pieces.
    """
    random = np.random.default_rng(seed)
    suppressed = [special["bos"], special["mask"]]
    prompts, held_out = np.split(passages, [settings.prompt_tokens], axis=1)
    masked = np.arange(settings.mask_every - 1, passages.shape[1], settings.mask_every)

    def continued() -> Iterator[Drawn]:
        uniform = random.random(held_out.shape, np.float32)
        given = _decode(tokenizer, prompts)
        for temperature in settings.temperatures:
            drawn = _decode(tokenizer, generate(model, prompts, uniform, temperature, suppressed))
            shown = [{"prompt": prompt, "text": text} for prompt, text in zip(given, drawn, strict=True)]
            yield Drawn(drawn, {"temperature": temperature}, shown)

    def filled() -> Iterator[Drawn]:
        uniform = random.random((len(passages), len(masked)), np.float32)
        for temperature in settings.temperatures:
            drawn = fill(model, passages, masked, uniform, temperature, special["mask"], suppressed)
            whole = passages.copy()
            whole[:, masked] = drawn
            about = {
                "temperature": temperature,
                "filled_tokens": drawn.size,
                "fill_accuracy": float((drawn == passages[:, masked]).mean()),
            }
            yield Drawn(_decode(tokenizer, whole), about, [{"parts": _parts(tokenizer, row, masked)} for row in whole])

    both_sides = objective_of(model).both_sides
    read = passages if both_sides else held_out
    drawn = list(filled() if both_sides else continued()) if len(passages) else []
    real = _decode(tokenizer, read)
    copies = CopyFinder((words(text) for texts in (real, *(each.texts for each in drawn)) for text in texts), train)

    def measured(texts: list[str]) -> Row:
        """A filled text, most of which was given, has few measures."""
        if both_sides:
            return {"real_word_fraction": _real_word_fraction([words(text) for text in texts], copies)}
        return quality(texts, copies, settings.ngram_size)

    return {
        "protocol": "filled" if both_sides else "continued",
        "samples": len(passages),
        "prompt_tokens": None if both_sides else settings.prompt_tokens,
        "tokens": read.shape[1],
        "mask_every": settings.mask_every if both_sides else None,
        "seed": seed,
        "word": "a sequence of letters and digits with inner apostrophes and hyphens, in lower case",
        "copied_from": "train",
        "temperatures": [each.about | measured(each.texts) | {"texts": each.shown} for each in drawn],
        "held_out_text": quality(real, copies, settings.ngram_size),
    }


def quality(generated: list[str], copies: CopyFinder, ngram_size: int) -> Row:
    """The measures of texts, of all together, and the longest copied n-gram itself."""
    split = [words(text) for text in generated]
    copied = [copies.longest(text) for text in split]
    longest = max(copied, key=len, default=[])
    return {
        "words": sum(map(len, split)),
        **{f"distinct_{n}": distinct(split, n) for n in (1, 2, 3)},
        f"repeated_{ngram_size}_gram_fraction": repetition(split, ngram_size),
        "real_word_fraction": _real_word_fraction(split, copies),
        "longest_copied_words": len(longest),
        "longest_copied": " ".join(longest),
        "mean_longest_copied_words": float(np.mean([*map(len, copied)])) if copied else None,
    }


def _real_word_fraction(split: list[list[str]], copies: CopyFinder) -> float | None:
    """The fraction of words that the train split has."""
    every = [word for text in split for word in text]
    return sum(word in copies for word in every) / len(every) if every else None


def _parts(tokenizer: Tokenizer, row: Int[np.ndarray, "time"], masked: Int[np.ndarray, "masks"]) -> list[Row]:
    """A passage as alternating given and filled texts."""
    cuts = np.split(row, np.sort(np.concatenate([masked, masked + 1])))
    decoded = tokenizer.decode_batch([cut.tolist() for cut in cuts], skip_special_tokens=False)
    return [{"text": text, "filled": number % 2 == 1} for number, text in enumerate(decoded) if text]


def _decode(tokenizer: Tokenizer, rows: Passages) -> list[str]:
    decoded: list[str] = tokenizer.decode_batch(rows.tolist(), skip_special_tokens=False)
    return decoded
