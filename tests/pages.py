"""README.md and the pages of docs/ as the tests read them: their tables, code blocks and sections."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tiny_project import CHECKOUT

MEASURED = CHECKOUT / "data/metrics"
RESULTS = CHECKOUT / "benchmarks/results"


@dataclass(frozen=True)
class Table:
    """A Markdown table: the cells of its header, and of each row."""

    header: list[str]
    rows: list[list[str]]

    @property
    def by_first_cell(self) -> dict[str, dict[str, str]]:
        """First cell of a row → column → cell."""
        return {row[0]: dict(zip(self.header[1:], row[1:], strict=True)) for row in self.rows}


@dataclass(frozen=True)
class Page:
    """A page; `name` is its path from the project's folder."""

    name: str

    @cached_property
    def text(self) -> str:
        return (CHECKOUT / self.name).read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return re.sub(r"^```.*?^```$", "", self.text, flags=re.DOTALL | re.MULTILINE)

    def blocks(self, language: str) -> list[str]:
        """The fenced blocks of a language; '' is that of blocks that name none."""
        found = re.findall(r"^```(\w*)\n(.*?)^```$", self.text, re.DOTALL | re.MULTILINE)
        return [block for name, block in found if name == language]

    def section(self, title: str) -> str:
        """The text below a heading, up to the next one of level two."""
        found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", self.text, re.DOTALL | re.MULTILINE)
        assert found, f"{self.name} has no section {title}"
        return found[1]

    def table(self, after: str, section: str = "") -> Table:
        """The first table behind some words of the page, or of one of its sections."""
        text = self.section(section) if section else self.text
        assert after in text, f"{self.name} does not say: {after}"
        table = re.search(r"(?:^\|.*\n)+", text[text.index(after) :], re.MULTILINE)
        assert table, f"{self.name} has no table after: {after}"
        header, _, *rows = ([cell.strip() for cell in line[1:-1].split(" |")] for line in table[0].splitlines())
        return Table(header, rows)

    @cached_property
    def anchors(self) -> set[str]:
        """What links to a heading of the page may end with."""
        titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", self.text, flags=re.DOTALL | re.MULTILINE), re.M)
        return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


README = Page("README.md")
PAGES = [README, *(Page(f"docs/{path.name}") for path in sorted((CHECKOUT / "docs").glob("*.md")))]


def measured(name: str) -> Any:
    """A file of data/metrics, by its path there without .json."""
    return json.loads((MEASURED / f"{name}.json").read_bytes())


def result(name: str) -> Any:
    """A file of benchmarks/results, by its name without .json."""
    return json.loads((RESULTS / f"{name}.json").read_bytes())


def verified(variant: str) -> Any:
    """What `verify` found for each precision of a variant, which must have passed."""
    found = measured(f"verification/{variant}")
    assert all(found[precision]["verified"] is True for precision in ("fp32", "int8", "int4"))
    return found


def identical_tokens(verification: Any) -> str:
    """How many generated tokens onnxruntime and PyTorch have in common, as the tables show it."""
    return f"{verification['greedy_tokens_identical'] + verification['sampled_tokens_identical']:,}"


def scores(variant: str) -> list[str]:
    """The four cells of a table of results: bits per byte and perplexity, then both as pseudo-likelihoods."""
    metrics = measured(variant)
    streamed = metrics["protocol"] == "streamed"
    prefix = "" if streamed else "pseudo_"
    test = metrics["test"]
    cells = [f"{test[f'{prefix}bits_per_byte']:.3f}", f"{test[f'{prefix}perplexity_per_token']:.1f}"]
    return [*cells, "—", "—"] if streamed else ["—", "—", *cells]


def interval(variant: str, over: str) -> str:
    """The 95 % bootstrap interval of the (pseudo-)perplexity per token on the test split, over windows or documents."""
    found = measured(f"perplexity/{variant}")
    assert found["bootstrap"]["confidence"] == 0.95
    intervals = found["static"][f"intervals_over_{over}"]
    low, high = intervals.get("perplexity_per_token") or intervals["pseudo_perplexity_per_token"]
    return f"{low:.1f} to {high:.1f}"


def assert_shape(variant: str, cells: dict[str, str]) -> None:
    """Check layers × hidden (of a bidirectional model: directions × layers × hidden) and the number of parameters."""
    lesson = measured(f"diagnostics/{variant}")["lesson"]
    directions = "" if measured(variant)["protocol"] == "streamed" else "2 × "
    assert cells["layers × hidden"] == f"{directions}{lesson['layers']} × {lesson['hidden_size']}"
    assert cells["parameters"] == f"{measured(variant)['parameters']:,}"
