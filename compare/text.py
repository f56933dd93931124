"""Stage text: the comparison's corpus, and its tokens.

Inputs:  section `corpus` of compare/params.yaml; sections `fetch` and `tokenize` of params.yaml
Outputs: data/compare/<name>/corpus/, data/compare/<name>/tokens/
         data/compare/<name>/files.json: the state of the files that were read, for compare/start.py
Command: python compare/text.py
"""

from __future__ import annotations

from recurlm.compare import own_files
from recurlm.compare.settings import project
from recurlm.corpus import files, hub, packaged
from recurlm.corpus.reader import open_split
from recurlm.corpus.writer import write
from recurlm.errors import exit_cleanly
from recurlm.tokens.encode import write_tokens

SOURCES = {"packaged": packaged.source, "files": files.source, "hub": hub.source}


def main() -> None:
    compare, params = project()
    source = SOURCES[params.fetch.source](params.fetch)
    corpus = write(source, compare.folder / "corpus", processes=params.machine.processes)
    splits = {split: open_split(compare.folder / "corpus", split) for split in ("train", "validation", "test")}
    write_tokens(compare.folder / "tokens", params.tokenize, splits, corpus)
    own_files.keep(compare, source)


if __name__ == "__main__":
    exit_cleanly(main)
