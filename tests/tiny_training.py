"""A tiny project's data/tokens, made within the test's process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs import PARAMS, merged, write_params

from recurlm import config
from recurlm.config import Params
from recurlm.tokens.encode import write_tokens


class Texts(list[str]):
    """Documents in memory, given out in short pieces."""

    goes_on = False

    def pieces(self, document: int) -> Iterator[str]:
        text = self[document]
        return (text[begin : begin + 7] for begin in range(0, len(text), 7))

    @property
    def shards(self) -> list[Texts]:
        return [self]

    def check(self) -> None: ...

    def documents(self) -> Iterator[Iterator[str]]:
        return (self.pieces(document) for document in range(len(self)))


TINY = {
    "tokenize": {"kind": "char"},
    "train": {
        "precision": "fp32",
        "data": {"epochs": 1, "batch_size": 4, "sequence_length": 16},
        "evaluation": {"num_evals": 1, "batch_size": 4, "window_tokens": 64, "context_tokens": 8},
    },
    "model": {"embedding_size": 6, "hidden_size": 8, "layers": 1},
    "variants": {name: {"embedding_size": 6, "hidden_size": 8} for name in PARAMS.variants},
}


def tiny_params(**changes: object) -> Params:
    """The project's parameters made small, with some values replaced, section by section."""
    raw = PARAMS.model_dump()
    raw["variants"] = {name: block.model_dump() | TINY["model"] for name, block in PARAMS.variants.items()}
    return Params.model_validate(merged(merged(raw, TINY), changes))


def write_tiny_tokens(
    data: Path, params: Params, line: str = "KING. The ships of {} lords come home, and sing.\n", lines: int = 80
) -> None:
    """Tokens of a few made-up lines in `data / "tokens"`."""
    texts = {
        split: Texts(["".join(line.format(number * 7 % 31) for number in range(count))])
        for split, count in {"train": lines, "validation": 8, "test": 8}.items()
    }
    corpus = {"name": "a test", "licence": None, "revision": None}
    earlier = params.train.init_from
    write_tokens(data / "tokens", params.tokenize, texts, corpus, init_from=None if earlier is None else Path(earlier))


def write_tiny_project(folder: Path, train: dict[str, Any]) -> None:
    """A project with tokens, ready for the stage `train` of the variant gru; `train` is what it changes there."""
    folder.mkdir(exist_ok=True)
    sizes = {"data": {"batch_size": 4, "sequence_length": 16}, "evaluation": {"num_evals": 2}}
    gru = {"embedding_size": 8, "hidden_size": 12, "dropout": 0.2}
    changes = {"tokenize": {"kind": "char"}, "train": merged(sizes, train), "variants": {"gru": gru}}
    write_params(folder, changes)
    write_tiny_tokens(folder / "data", config.load(folder / "params.yaml"), lines=320)
