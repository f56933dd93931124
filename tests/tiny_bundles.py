"""Bundles of tiny random models, written by the same code as real ones: every variant with every kind of tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from configs import PARAMS, model_config
from shared import made_once

from recurlm.config import Export, Precision, Tokenize
from recurlm.export.bundle import write_bundle, write_graphs
from recurlm.export.graphs import ExportCache
from recurlm.model import LanguageModel, build
from recurlm.storage import sha256_of
from recurlm.tokens.special import special_ids
from recurlm.tokens.tokenizer import learn_tokenizer

USUAL = PARAMS.export
VOCABULARY = 300  # of each kind of tokenizer, so that a variant's graphs serve all of them

WORDS = ["king", "night", "sea", "crown", "naïve", "ghost", "storm", "to", "be", "or", "not", "that", "is", "the"]
TEXTS = {
    # 258 bytes and special tokens, and the most frequent pairs of these words.
    "bpe": [f"{first} {second}, {first}.\n" for first in WORDS for second in WORDS],
    # 3 special tokens and 297 characters: ASCII, accented letters, Greek, a face of four bytes.
    "char": ["\n" + "".join(map(chr, [*range(32, 127), *range(192, 384), *range(945, 953), 0x1F600]))],
    # 4 special tokens and 296 words.
    "word": [" ".join([*WORDS, *(f"word{number}" for number in range(282))])],
}
TOKENIZERS = {
    kind: learn_tokenizer(texts, Tokenize(kind=kind, vocab_size=VOCABULARY, lowercase=False))
    for kind, texts in TEXTS.items()
}


class TinyBundles:
    """Makes a bundle when it is first asked for; tests only read it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models = _Models()
        self.caches: dict[tuple[str, int], ExportCache] = {}

    def __call__(
        self, variant: str, kind: str = "bpe", precision: Precision = "fp32", settings: Export = USUAL
    ) -> Path:
        """The folder of a bundle."""
        folder = self.root / f"opset{settings.opset}" / kind / variant / precision

        def make(folder: Path) -> None:
            graphs, learned, tokenizer = self._graphs(variant, precision, settings), TOKENIZERS[kind], self._file(kind)
            assert learned.get_vocab_size() == VOCABULARY
            facts = {
                "tokenizer_kind": kind,
                "special": special_ids(learned),
                "tokenizer_sha256": sha256_of(tokenizer),
                "parameters": 0,
                "metrics": {},
                "verification": {"verified": True},
            }
            write_bundle(folder, graphs, tokenizer, facts)

        return made_once(folder, make)

    def _file(self, kind: str) -> Path:
        def write(folder: Path) -> None:
            (folder / "tokenizer.json").write_text(TOKENIZERS[kind].to_str(), encoding="utf-8")

        return made_once(self.root / "tokenizers" / kind, write) / "tokenizer.json"

    def _graphs(self, variant: str, precision: Precision, settings: Export) -> Path:
        folder = self.root / f"graphs{settings.opset}" / variant / precision

        def make(folder: Path) -> None:
            model = self.models[variant]
            # Whatever the tokenizer, tokens 0 and 1 are `<bos>` and `<mask>`.
            special = {"bos": 0, "mask": 1, "unk": None, "eol": None}
            manifest = {"special": special, "tokenizer_sha256": "", "kind": "", "corpus": {}}
            text = np.random.default_rng(0).integers(0, VOCABULARY, 500)
            cache = self.caches.setdefault((variant, settings.opset), ExportCache())
            write_graphs(folder, variant, model, manifest, settings, precision, text, cache)

        return made_once(folder, make)


class _Models(dict[str, LanguageModel]):
    """The models of the bundles, also of those that another process has made."""

    def __missing__(self, variant: str) -> LanguageModel:
        self[variant] = random_model(variant)
        return self[variant]


def random_model(variant: str) -> LanguageModel:
    torch.manual_seed(5)
    config = model_config(variant, embedding_size=8, hidden_size=12, concat_layers=False)
    model = build(variant, config, VOCABULARY).eval().requires_grad_(False)
    # A fresh model finds every token about equally likely.
    model.embedding.weight.mul_(4)
    model.decoder.bias.normal_(std=2)
    return model
