"""docs/family.md names every cell, and its table is the present one."""

from __future__ import annotations

import re

import pytest
from configs import CHECKOUT

from recurlm.errors import InputError
from recurlm.report.family import BEGIN, fill, table
from recurlm.variants import REGISTRY

PAGE = (CHECKOUT / "docs/family.md").read_text(encoding="utf-8")


def test_its_table_is_that_of_the_present_variants() -> None:
    assert fill(PAGE, table(CHECKOUT)) == PAGE, "python -m recurlm.report.family"


def test_every_cell_has_a_line_of_its_own() -> None:
    prose = PAGE.partition(BEGIN)[0]
    assert set(re.findall(r"^(?:\| |`)(\w+)(?: \||`:)", prose, re.MULTILINE)) - {"cell"} == set(REGISTRY)


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(InputError, match="the marks of its table are missing"):
        fill(PAGE.replace(BEGIN, ""), "")
