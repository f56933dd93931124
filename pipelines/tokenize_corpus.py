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
from recurlm.tokens.encode import write_tokens


def main(params: Params) -> None:
    splits = {split: open_split(DATA / "corpus", split) for split in ("train", "validation", "test")}
    corpus = splits["train"].manifest
    sizes = {split: corpus["splits"][split]["bytes"] for split in splits}
    learned = 0 if params.train.init_from else sizes["train"]  # read once more
    total = learned + sum(sizes.values())
    with progress_bar("tokenize", total, "B") as bar:

        def progress(task: str, size: int) -> None:
            bar.set_description(f"tokenize: {task}", refresh=False)
            bar.update(size)

        earlier = params.train.init_from
        write_tokens(
            DATA / "tokens", params.tokenize, splits, corpus, progress, None if earlier is None else Path(earlier)
        )


if __name__ == "__main__":
    run(main)
