"""zoo.yaml: blocks of further variants, which become part of the pipeline when they are copied into params.yaml."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from recurlm import config
from recurlm.errors import InputError, nearest
from recurlm.storage import whole_file
from recurlm.strict_yaml import load_yaml

# A name, perhaps with a comment behind it, and what is indented further, with the blank lines and comments between.
BLOCK = re.compile(r"^  ([^\s#:]+):[ \t]*(?:#.*)?\n(?:(?:[ \t]*(?:#.*)?\n)*    .*\n)+", re.MULTILINE)


def add_variants(names: Sequence[str], zoo: Path, params: Path) -> list[str]:
    """Append blocks of `zoo` to `params`, whose last section is `variants`, and return the names of those added.

    The text of both files stays as it is, with its comments. A variant that `params` holds already is left alone.

    Raises:
        InputError: `zoo` has no such block, or `params` with the new blocks does not fit.
    """
    known = config.load(params).variants
    if not zoo.is_file():
        raise InputError(f"{zoo}: no such file: run this from the folder that holds it")
    blocks = load_yaml(zoo)["variants"]
    text = {match[1]: match[0] for match in BLOCK.finditer(zoo.read_text(encoding="utf-8") + "\n")}
    for name in names:
        if name not in blocks and name not in known:
            raise InputError(f"{zoo}: no variant '{name}': {nearest(name, blocks)}")
    added = [name for name in dict.fromkeys(names) if name not in known]
    if added:
        if strange := [name for name in added if name not in text]:
            raise InputError(f"{zoo}: the block '{strange[0]}' is not written as the others are: copy it by hand")
        before = params.read_text(encoding="utf-8").rstrip("\n") + "\n"
        with whole_file(params) as partial:
            partial.write_text(before + "".join(text[name] for name in added), encoding="utf-8")
            variants = config.load(partial).variants
            if not all(name in variants for name in added):
                raise InputError(f"{params}: its last section is not `variants`: copy the blocks by hand")
            written = load_yaml(partial)["variants"]
            if cut := [name for name in added if written[name] != blocks[name]]:
                raise InputError(f"{zoo}: the block '{cut[0]}' is not written as the others are: copy it by hand")
    return added
