"""docs/family.md names every cell, and its table is the present one."""

from __future__ import annotations

import re

from configs import CHECKOUT

from recurlm.report import pages
from recurlm.report.page import environment
from recurlm.variants import REGISTRY

PAGE = (CHECKOUT / "docs/family.md").read_text(encoding="utf-8")


def test_its_table_is_that_of_the_present_variants() -> None:
    assert pages.check(CHECKOUT, ("docs/family.md",)) == [], "python -m recurlm.report.pages docs/family.md"


def test_every_cell_has_a_line_of_its_own() -> None:
    prose = PAGE.partition("<!-- text: family -->")[0]
    assert set(re.findall(r"^(?:\| |`)(\w+)(?: \||`:)", prose, re.MULTILINE)) - {"cell"} == set(REGISTRY)


def test_measured_figures_stand_in_their_columns_and_dashes_where_there_are_none() -> None:
    trained = {"tokens_per_second": 9000.0, "matmul_fraction": 0.524, "step_over_forward": 19.6}
    generated = {"state_bytes": 4, "fp32_microseconds_per_token": 250.0, "int8_microseconds_per_token": 80.0}
    content = {"variants": [], "benchmark": lambda name: {}}
    speeds = environment(html=False).get_template("docs.j2").make_module(content).speeds
    assert speeds(trained, generated) == "52% | 20 | 250 | 4,000 | 80 | 12,500"
    assert speeds(None, None) == " | ".join("––––––")
