"""Stage tokenize: learn a tokenizer from the train split and write every split as ids.

Inputs:  data/corpus/, section `tokenize` of params.yaml
Outputs: data/tokens/
Command: python pipelines/tokenize_corpus.py
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from recurlm import config
from recurlm.corpus.reader import open_split
from recurlm.errors import exit_cleanly
from recurlm.tokens.encode import write_tokens

CORPUS = Path("data/corpus")
TOKENS = Path("data/tokens")
SPLITS = ("train", "validation", "test")


class Progress:
    """A bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, bar: tqdm[NoReturn], total: int) -> None:
        self.bar = bar
        self.total = total
        self.done = 0
        self.told = time.monotonic()

    def __call__(self, doing: str, size: int) -> None:
        self.done += size
        self.bar.set_description(doing, refresh=False)
        self.bar.update(size)
        if self.bar.disable and time.monotonic() - self.told > 10:
            self.told = time.monotonic()
            sys.stderr.write(f"tokenize: {doing}, {self.done / self.total:.0%} of all reading done\n")


def main() -> None:
    params = config.load()
    splits = {split: open_split(CORPUS, split) for split in SPLITS}
    corpus = splits["train"].manifest
    sizes = {split: corpus["splits"][split]["bytes"] for split in SPLITS}
    total = sizes["train"] + sum(sizes.values())  # train is read twice
    with tqdm(total=total, unit="B", unit_scale=True, disable=None) as bar:
        write_tokens(TOKENS, params.tokenize, splits, corpus, Progress(bar, total))


if __name__ == "__main__":
    exit_cleanly(main)
