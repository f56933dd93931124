"""Put the comparison into git: its numbers, its pictures, and its table on docs/compare.md.

Inputs:  data/compare/<name>/, as the stage report left it
Outputs: benchmarks/results/compare-<name>.json, docs/plots/compare_<name>_*.png, the table of docs/compare.md
Command: python compare/publish.py
"""

from __future__ import annotations

from pathlib import Path

from recurlm.compare import page, settings
from recurlm.errors import InputError, exit_cleanly
from recurlm.report.tables import markdown
from recurlm.storage import read_json, whole_file, write_json

PAGE = Path("docs/compare.md")


def main() -> None:
    compare = settings.load()
    results = read_json(compare.folder / "results.json")
    text = PAGE.read_text(encoding="utf-8")
    mark = f"<!-- table: compare-{compare.name}.json -->"
    head, found, rest = text.partition(f"{mark}\n")
    _, closed, tail = rest.partition("<!-- /table -->")
    if not found or not closed:
        raise InputError(f"{PAGE}: the marks of its table are missing: {mark} … <!-- /table -->")
    write_json(Path(f"benchmarks/results/compare-{compare.name}.json"), {"command": "make compare"} | results)
    for name in page.pictures(results):
        with whole_file(Path(f"docs/plots/compare_{compare.name}_{name}")) as partial:
            partial.write_bytes((compare.folder / name).read_bytes())
    shown = f"{page.lead(results)}\n\n{markdown(page.table(results))}\n"
    with whole_file(PAGE) as partial:
        partial.write_text(f"{head}{found}{shown}{closed}{tail}", encoding="utf-8")


if __name__ == "__main__":
    exit_cleanly(main)
