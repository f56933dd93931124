"""Fill the table of docs/family.md with sizes and states of params.yaml's and zoo.yaml's variants; idempotent.

Inputs:  params.yaml, zoo.yaml
Command: python -m recurlm.report.family
         python -m recurlm.report.family --check    # change nothing; status 2 if the table is an old one
"""

from __future__ import annotations

import math
from pathlib import Path

from recurlm import config
from recurlm.config import ModelConfig
from recurlm.errors import InputError, exit_cleanly
from recurlm.model import build, count_parameters
from recurlm.report.fill_page import fill_page
from recurlm.strict_yaml import load_yaml

PAGE = Path("docs/family.md")
BEGIN, END = "<!-- table: python -m recurlm.report.family -->\n", "<!-- /table -->"
HEAD = "| variant | width × layers | parameters | state a sequence, numbers | in fp32, KB |\n|---|---|--:|--:|--:|\n"


def table(root: Path) -> str:
    """A row a variant: its sizes with the vocabulary of params.yaml, and what it carries from token to token."""
    params = config.load(root / "params.yaml")
    zoo = {
        name: ModelConfig(**(params.model | block)) for name, block in load_yaml(root / "zoo.yaml")["variants"].items()
    }
    rows = []
    for name, variant in (params.variants | zoo).items():
        model = build(name, variant, params.tokenize.vocab_size)
        numbers = sum(math.prod(shape) for shape in model.recurrence.state_spec.values())
        sizes = f"{variant.hidden_size} × {variant.layers}"
        rows.append(f"| {name} | {sizes} | {count_parameters(model):,} | {numbers:,} | {numbers * 4 / 1000:.1f} |\n")
    return HEAD + "".join(rows)


def fill(text: str, rows: str) -> str:
    """The page with the table between its two marks.

    Raises:
        InputError: a mark is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(f"{PAGE}: the marks of its table are missing: {BEGIN.strip()} and {END}")
    return before + begin + rows + end + after


def main() -> None:
    fill_page(
        PAGE, "python -m recurlm.report.family", lambda text, _: fill(text, table(Path())), "its table is an old one"
    )


if __name__ == "__main__":
    exit_cleanly(main)
