"""Stage tokenize: learn a tokenizer from the train split, or take an earlier model's, and write every split as ids.

Inputs:  data/corpus/, section `tokenize` and `train.init_from` of params.yaml
Outputs: data/tokens/
Command: python pipelines/tokenize_corpus.py
"""

from __future__ import annotations

from pathlib import Path

from recurlm.config import Params
from recurlm.corpus.reader import open_split
from recurlm.progress import progress_bar
from recurlm.stage import DATA, run
from recurlm.tokens.encode import LEARNED, write_tokens


def main(params: Params) -> None:
    splits = {split: open_split(DATA / "corpus", split, check=False) for split in ("train", "validation", "test")}
    corpus, earlier = splits["train"].manifest, params.train.init_from
    sizes = {split: corpus["splits"][split]["bytes"] for split in splits}
    learned = 0 if earlier else sizes["train"] if params.tokenize.kind == "char" else min(sizes["train"], LEARNED)
    with progress_bar("tokenize", learned + sum(sizes.values()), "B") as bar:
        write_tokens(
            DATA / "tokens",
            params.tokenize,
            splits,
            corpus,
            bar.update,
            None if earlier is None else Path(earlier),
            params.machine.processes,
        )


if __name__ == "__main__":
    run(main)
