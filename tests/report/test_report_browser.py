"""The page in a real Chromium, opened from disk: no error, no request, charts drawn, legends and tables that work."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dvc_render.html import render_html
from dvc_render.vega import VegaRenderer
from fabricated_results import write_results
from selenium.webdriver import Keys

from recurlm.report import plots_page
from recurlm.report.build import build

sys.path.insert(0, str(Path(__file__).parents[1] / "playground"))
from browser import DRIVER, Browser

DRAWN = "return Number(document.documentElement.dataset.drawn) === document.querySelectorAll('figure').length"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    write_results(root)
    build(root)
    return root / "data/report/index.html"


def open_in_chromium(page: Path, net_log: Path, *settings: Any) -> Browser:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None or not Path(DRIVER).exists():
        pytest.skip("no Chromium here")
    browser = Browser(chromium, page.as_uri(), net_log, *settings)
    browser.driver.get(page.as_uri())
    return browser


@pytest.fixture(params=[((1280, 900), False, False), ((390, 844), True, True)], ids=["desk", "dark phone"])
def page(report: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Browser]:
    browser = open_in_chromium(report, tmp_path / "net.json", *request.param)
    browser.driver.execute_script("dispatchEvent(new Event('beforeprint'))")
    browser.wait(lambda: browser.driver.execute_script(DRAWN))
    yield browser
    browser.close()


def phone(page: Browser) -> bool:
    return bool(page.driver.execute_script("return innerWidth < 640"))


def test_it_opens_from_disk_and_asks_for_nothing(page: Browser) -> None:
    figures, drawn = (len(page.driver.find_elements("css selector", each)) for each in ("figure", "figure .chart svg"))
    assert figures == drawn > 10
    assert page.driver.find_elements("css selector", ".chart .role-legend") == [], "the buttons are the legend"
    assert page.console() == []
    cut_off = (
        "return [...document.querySelectorAll('.scroll')].filter(each => each.scrollWidth > each.clientWidth).length"
    )
    assert page.driver.execute_script(cut_off) == 0 or not phone(page)
    widths = page.driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]
    page.driver.execute_script("fetch('https://example.org/').catch(() => 0)")
    events = page.requests()
    log = json.loads(page.net_log.read_text(encoding="utf-8"))
    assert log["events"], "the log holds what was asked for"
    assert [url for url in events if not url.startswith(("file:", "data:"))] == []


def test_a_legend_hides_a_variant_and_a_head_sorts(page: Browser) -> None:
    button = page.driver.find_element("css selector", ".legend button[data-variant=rnn]")
    mark = "#learning-curves figure .mark-line path"
    before = len(page.driver.find_elements("css selector", mark))
    page.driver.execute_script("arguments[0].click()", button)
    page.wait(lambda: len(page.driver.find_elements("css selector", mark)) < before)
    assert button.get_attribute("aria-pressed") == "false"

    top = "return document.querySelector('#comparison tbody tr').getBoundingClientRect().top + scrollY"
    height = page.driver.execute_script("return innerHeight")
    assert page.driver.execute_script(top) < height / 2, "the first screen is the comparison"

    head = page.driver.find_elements("css selector", "#comparison thead button")[3]
    first = "return document.querySelector('#comparison tbody th').textContent"
    head.send_keys(Keys.ENTER)
    assert page.driver.execute_script(first) == "lstm", "bits per byte, the least first"
    head.send_keys(Keys.ENTER)
    assert page.driver.execute_script(first) == "rnn"
    assert page.console() == []


def test_the_plots_of_dvc_are_drawn_without_a_request(tmp_path: Path) -> None:
    (tmp_path / "template.html").write_text(plots_page.template(), encoding="utf-8")
    points = [{"x": x, "y": x * x, "rev": "workspace"} for x in range(4)]
    curve = VegaRenderer(points, "curve.csv", template="simple", x="x", y="y")
    page = Path(render_html([curve], tmp_path / "index.html", tmp_path / "template.html"))
    browser = open_in_chromium(page, tmp_path / "net.json")
    try:
        drawn = "return document.querySelectorAll('.vega-embed canvas, .vega-embed svg').length"
        browser.wait(lambda: browser.driver.execute_script(drawn))
        events = browser.requests()
        assert [url for url in events if not url.startswith(("file:", "data:"))] == []
    finally:
        browser.close()
