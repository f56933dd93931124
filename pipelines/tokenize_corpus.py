"""Stage tokenize: learn a tokenizer from the train split and write every split as ids.

Inputs:  data/corpus/, section `tokenize` of params.yaml
Outputs: data/tokens/
Command: python pipelines/tokenize_corpus.py
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tqdm import tqdm

from recurlm import config
from recurlm.corpus.reader import open_split
from recurlm.errors import exit_cleanly
from recurlm.storage import read_json
from recurlm.tokens.encode import write_tokens

CORPUS = Path("data/corpus")
TOKENS = Path("data/tokens")
SPLITS = ("train", "validation", "test")


class Progress:
    """A bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.told = time.monotonic()
        self.bar = tqdm(total=total, unit="B", unit_scale=True, disable=None)

    def __call__(self, doing: str, size: int) -> None:
        self.done += size
        self.bar.set_description(doing, refresh=False)
        self.bar.update(size)
        if self.bar.disable and time.monotonic() - self.told > 10:
            self.told = time.monotonic()
            sys.stderr.write(f"tokenize: {doing}, {self.done / self.total:.0%} of all reading\n")


def main() -> None:
    params = config.load()
    corpus = read_json(CORPUS / "manifest.json")
    sizes = {split: corpus["splits"][split]["bytes"] for split in SPLITS}
    progress = Progress(total=sizes["train"] + sum(sizes.values()))  # train is read twice
    splits = {split: open_split(CORPUS, split) for split in SPLITS}
    write_tokens(TOKENS, params.tokenize, splits, corpus, progress)
    progress.bar.close()


if __name__ == "__main__":
    exit_cleanly(main)
