"""Bundles of small models with random weights: what faults are planted in where nothing was trained."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from recurlm.config import Evaluate, ModelConfig, Params, Precision, Tokenize
from recurlm.evaluation.perplexity import describe, score
from recurlm.export.bundle import write_graphs
from recurlm.export.graphs import ExportCache
from recurlm.model import LanguageModel, build, count_parameters
from recurlm.objective import objective_of
from recurlm.storage import sha256_of
from recurlm.tokens.files import TokenFile
from recurlm.tokens.special import BOS, special_ids
from recurlm.tokens.tokenizer import learn_tokenizer
from recurlm.verify.faults.plant import Subject, write_subject

SCORING = Evaluate(batch_size=3, window_tokens=40, context_tokens=10)
SIZES = {"embedding_size": 8, "hidden_size": 12}
LETTERS = "abcdefghijklmnopqrstu.\n"
DOCUMENTS = (180, 120)  # tokens of each


def tiny_subjects(variant: str, precisions: Iterable[Precision], params: Params, root: Path) -> Iterator[Subject]:
    """Bundles of a small model with random weights, in a new folder of `root`; none has a fault."""
    root = root / variant
    root.mkdir(parents=True)
    held_out, tokenizer = text(root)
    small, params = random_model(variant, params.variants[variant]), params.model_copy(update={"evaluate": SCORING})
    windows = (SCORING.window_tokens, SCORING.context_tokens, SCORING.batch_size)
    nats = score(small, held_out.ids, held_out.starts, *windows)
    metrics = describe(nats, held_out.counts, objective_of(small).metric_prefix)
    facts = {
        "parameters": count_parameters(small),
        "model_sha256": "1" * 64,
        "metrics": {"protocol": objective_of(small).protocol, **metrics},
        "verification": {"verified": True},
    }
    cache = ExportCache()
    for precision in precisions:
        graphs, folder = root / "graphs" / precision, root / "bundles" / precision
        for new in (graphs, folder):
            new.mkdir(parents=True)
        write_graphs(graphs, variant, small, held_out.manifest, params.export, precision, held_out.ids, cache)
        write_subject(folder, graphs, tokenizer, facts)
        yield Subject(variant, precision, small, folder, held_out, tokenizer, metrics, facts, params)


def text(root: Path) -> tuple[TokenFile, Path]:
    """Made-up documents of letters, and the tokenizer of their characters."""
    draw = random.Random(0)
    documents = ["".join(draw.choices(LETTERS, range(1, len(LETTERS) + 1), k=length - 1)) for length in DOCUMENTS]
    tokenizer = learn_tokenizer([LETTERS], Tokenize(kind="char", vocab_size=300, lowercase=False))
    path = root / "tokenizer.json"
    path.write_text(tokenizer.to_str(), encoding="utf-8")
    special = special_ids(tokenizer)
    ids = [[tokenizer.token_to_id(BOS), *tokenizer.encode(document).ids] for document in documents]
    tokens = sum(DOCUMENTS) - len(DOCUMENTS)
    counts = {"tokens": tokens, "words": 60, "bytes": tokens, "characters": tokens, "out_of_vocabulary_words": 0}
    manifest = {"special": special, "tokenizer_sha256": sha256_of(path), "kind": "char", "corpus": {}}
    starts = np.cumsum([0, *map(len, ids)])
    return TokenFile(np.array([id for document in ids for id in document], np.uint16), starts, counts, manifest), path


def random_model(variant: str, config: ModelConfig) -> LanguageModel:
    """Large weights, so that what is changed shows."""
    torch.manual_seed(2)
    small = build(variant, config.model_copy(update=SIZES), len(LETTERS) + 3).eval().requires_grad_(False)
    for parameter in small.parameters():
        parameter.normal_(std=0.5)
    return small
