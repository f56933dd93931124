"""The page in a real Chromium: Python's tokens, no host but its own, no error; on a phone, by keyboard, read aloud."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from browser import Browser, Select
from configs import LESSON
from conftest import PLAYGROUND, PRECISIONS, run
from selenium.webdriver import ActionChains, Keys
from tiny_bundles import TinyBundles

from recurlm.runtime import Bundle, Filler, Generator
from recurlm.storage import write_sealed_json

pytestmark = pytest.mark.xdist_group("playground")

PROMPT = "king or night\nthe sea"
MASKED = "king or ___ the sea ___ night"
SETTINGS = {"temperature": 1.0, "top_k": 50, "top_p": 0.95, "seed": 3}
QUERY = {"temperature": "1.0", "topK": "50", "topP": "0.95", "seed": "3"}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("variant", list(LESSON))
def test_the_page_generates_pythons_tokens(open_page: Any, bundles: TinyBundles, variant: str, precision: Any) -> None:
    generator = Generator.from_bundle(bundles(variant, "bpe", precision))
    count = 200
    page: Browser = open_page(QUERY | {"variant": variant, "precision": precision, "text": PROMPT, "count": count})
    page.submit()
    assert page.ids("given") == generator.bundle.vocabulary.known_ids(PROMPT, "the prompt")
    expected = PROMPT + generator.generate(PROMPT, count, **SETTINGS)
    assert page.shown_text() == expected
    assert page.console() == []


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("variant", ["bilstm"])
def test_the_page_fills_masks_as_python_does(
    open_page: Any, bundles: TinyBundles, variant: str, precision: Any
) -> None:
    filler = Filler.from_bundle(bundles(variant, "bpe", precision))
    page: Browser = open_page(QUERY | {"variant": variant, "precision": precision, "text": MASKED})
    page.submit()
    assert page.shown_text() == filler.fill(MASKED, **SETTINGS)
    assert page.ids("filled")
    assert page.console() == []


def test_a_person_chooses_types_and_generates_again(open_page: Any, bundles: TinyBundles) -> None:
    page: Browser = open_page()
    page.choose("variant", "lstm")
    page.choose("precision", "int8")
    page.type("text", "the crown")
    page.type("count", "30")
    page.type("seed", "8")
    page.submit()
    generator = Generator.from_bundle(bundles("lstm", "bpe", "int8"))
    assert page.shown_text() == "the crown" + generator.generate("the crown", 30, seed=8)
    address = page.driver.current_url
    page.choose("variant", "bilstm")
    assert page.text("go") == "Fill in"
    page.submit()
    assert page.ids("filled")
    page.driver.get(address)  # the link shows the same text
    page.submit()
    assert page.shown_text() == "the crown" + generator.generate("the crown", 30, seed=8)
    assert page.console() == []


def test_it_opens_in_int8_with_a_text(open_page: Any, bundles: TinyBundles) -> None:
    page: Browser = open_page(QUERY | {"text": PROMPT, "count": 30}, alone=True)
    variant, precision = (
        page.driver.execute_script(f"return document.querySelector('#{group} input:checked').value")
        for group in ("variant", "precision")
    )
    assert precision == "int8"
    generator = Generator.from_bundle(bundles(variant, "bpe", "int8"))
    assert page.shown_text() == PROMPT + generator.generate(PROMPT, 30, **SETTINGS)
    page.choose("variant", next(each for each in LESSON if each != variant))  # another model waits to be asked
    page.wait(lambda: page.text("status") == "The model is ready")
    assert page.shown_text() == ""
    assert not any("/fp32/" in url for url in page.requests())


def test_two_models_answer_side_by_side_with_the_same_seed(open_page: Any, bundles: TinyBundles) -> None:
    page: Browser = open_page(QUERY | {"variant": "gru", "precision": "int8", "text": PROMPT, "count": 30})
    second = "return document.getElementById('tokens-2').textContent"
    assert not page.element("pane-2").is_displayed()
    Select(page.element("beside")).select_by_value("lstm/int8")
    page.submit()
    gru, lstm = (Generator.from_bundle(bundles(variant, "bpe", "int8")) for variant in ("gru", "lstm"))
    expected = [PROMPT + each.generate(PROMPT, 30, **SETTINGS) for each in (gru, lstm)]
    assert [page.shown_text(), page.driver.execute_script(second)] == expected
    assert (page.text("heading"), page.text("heading-2")) == ("gru, int8", "lstm, int8")
    left, right = (page.element(id).rect for id in ("tokens", "tokens-2"))
    assert left["x"] + left["width"] <= right["x"]
    assert left["y"] == right["y"]
    page.driver.get(page.driver.current_url)  # the link shows both again
    page.wait(lambda: page.is_idle() and page.all_are_scored())
    assert [page.shown_text(), page.driver.execute_script(second)] == expected
    page.choose("variant", "bilstm")  # nothing that generates stands beside a model that fills masks
    assert not page.element("pane-2").is_displayed()
    page.submit()
    assert page.ids("filled")
    assert page.console() == []


def test_all_requests_go_to_the_pages_own_host(open_page: Any) -> None:
    page: Browser = open_page({"count": 20}, alone=True)
    page.submit()
    page.choose("variant", "bilstm")
    page.submit()
    page.driver.execute_script("fetch('http://127.0.0.2:9/').catch(() => 0)")
    host = urlsplit(page.address).netloc
    urls = page.requests()
    assert any(url.endswith("generator.onnx") for url in urls), "the log holds what workers ask for"
    assert any(url.endswith(".wasm") for url in urls)
    # The page's own policy stops even a request that a script would make.
    assert {urlsplit(url).netloc for url in urls} == {host}


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone(open_page: Any, dark: bool) -> None:
    page: Browser = open_page({"count": 60}, size=(390, 844), phone=True, dark=dark)
    page.submit()
    page.element("more").click()
    width = "return [document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"
    assert page.driver.execute_script(width) == [390, 390, 390]
    tokens = page.driver.find_elements("css selector", ".token.generated")
    tokens[20].click()
    assert page.element("card").is_displayed()
    assert page.driver.execute_script(width) == [390, 390, 390]
    page.choose("variant", "bilstm")
    page.submit()
    assert page.driver.execute_script(width) == [390, 390, 390]


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_barrier(open_page: Any, dark: bool) -> None:
    page: Browser = open_page({"count": 60}, dark=dark)
    axe = (PLAYGROUND / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")
    for _ in ("before", "after"):
        page.driver.execute_script(axe)
        results = page.driver.execute_async_script("axe.run().then(arguments[0])")
        violations = [(each["id"], [node["html"] for node in each["nodes"]]) for each in results["violations"]]
        assert violations == []
        assert len(results["passes"]) > 10
        page.submit()
        page.driver.find_elements("css selector", ".token.generated")[9].click()


def test_the_keyboard_alone_is_enough(open_page: Any) -> None:
    page: Browser = open_page({"count": 25})
    body = page.driver.find_element("tag name", "body")
    reached = []
    for _ in range(20):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        active = page.driver.switch_to.active_element
        reached.append(active.get_attribute("id") or active.get_attribute("name") or active.tag_name)
        if reached[-1] == "go":
            ActionChains(page.driver).send_keys(Keys.ENTER).perform()
            page.wait(lambda: page.is_idle() and page.all_are_scored())
        if reached[-1] == "tokens":
            break
    assert reached[-1] == "tokens", reached
    assert {"scheme", "variant", "precision", "text", "temperature", "seed", "go"} <= set(reached)
    ActionChains(page.driver).send_keys(Keys.ARROW_RIGHT).perform()
    selected = body.find_elements("css selector", ".token[aria-selected=true]")
    assert [each.get_attribute("id") for each in selected] == ["token-1"]
    assert page.element("tokens").get_attribute("aria-activedescendant") == "token-1"
    assert "Likeliest:" in page.text("details")  # what a screen reader says
    ActionChains(page.driver).send_keys(Keys.ESCAPE).perform()
    assert not page.element("card").is_displayed()


def test_pointing_at_a_token_shows_what_else_was_likely(open_page: Any) -> None:
    page: Browser = open_page({"count": 25})
    page.submit()
    token = page.driver.find_elements("css selector", ".token.generated")[10]
    ActionChains(page.driver).move_to_element(token).perform()
    card = page.element("card")
    assert card.is_displayed()
    assert f"{float(token.get_attribute('data-bits') or 'nan'):.1f} bits" in card.text
    assert len(card.find_elements("tag name", "li")) == 6


def test_state_and_gates_are_drawn_cell_by_cell(open_page: Any) -> None:
    page: Browser = open_page({"count": 25, "variant": "lstm"})
    script = """
        const canvas = document.getElementById("strip");
        const context = canvas.getContext("2d");
        const ratio = devicePixelRatio;
        let top = 0;
        return arguments[0].map((cells) => {
            top += 15;
            const colours = new Set();
            for (let column = 0; column < 20; column++)
                for (let unit = 0; unit < cells; unit++) {
                    const place = [column * 7 + 3, top + unit * 7 + 3].map((at) => at * ratio);
                    colours.add(context.getImageData(...place, 1, 1).data.join());
                }
            top += cells * 7;
            return colours.size;
        });"""

    def colours() -> list[int]:
        """How many there are among the cells of each band: the state, the reset gate, the update gate."""
        return list(page.driver.execute_script(script, [12, 8, 8]))

    page.choose("variant", "gru")
    page.wait(lambda: "8 units of each gate" in page.text("strip-caption"))
    page.wait(lambda: colours() == [1, 1, 1])
    page.submit()
    page.wait(lambda: min(colours()) > 20)
    page.choose("variant", "rnn")
    page.wait(lambda: page.text("strip-caption").endswith("orange above."))  # no gates


def test_stop_stops_and_the_page_generates_again(open_page: Any) -> None:
    page: Browser = open_page({"count": 5, "temperature": 1, "topK": 0, "topP": 1, "seed": 5, "variant": "rnn"})
    page.type("count", "1000000")
    page.element("go").click()
    page.wait(lambda: len(page.ids("generated")) > 0)
    page.element("stop").click()
    page.wait(page.is_idle)
    page.wait(page.all_are_scored)
    count = len(page.ids("generated"))
    page.driver.execute_async_script("setTimeout(arguments[0], 300)")
    assert len(page.ids("generated")) == count
    page.type("count", "10")
    page.submit()
    assert 0 < len(page.ids("generated")) <= 10
    assert page.console() == []


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("temperature", "-1", "temperature is -1"),
        ("topP", "0", "top-p is 0"),
        ("topK", "1.5", "top-k is 1.5"),
        ("seed", "king", "seed is king"),
        ("seed", "-1", "seed is -1"),
        ("count", "", "tokens is"),
    ],
)
def test_bad_input_gets_one_clear_line(open_page: Any, field: str, value: str, named: str) -> None:
    page: Browser = open_page({field: value, "variant": "gru"})
    page.submit()
    assert named in page.text("problem")
    assert page.is_idle()
    assert page.console() == []


def test_a_changed_file_is_refused(open_page: Any, site: Path) -> None:
    graph = site / "bundles/rnn/int8/generator.onnx"
    verified = graph.read_bytes()
    graph.write_bytes(verified[:-1] + bytes([verified[-1] ^ 1]))
    try:
        page: Browser = open_page({"variant": "rnn", "precision": "int8"}, alone=True)  # with an empty cache
        assert "bundles/rnn/int8/generator.onnx is not the file that was verified" in page.text("problem")
    finally:
        graph.write_bytes(verified)


def test_its_types_hold(npm: str) -> None:
    checked = run(npm, "exec", "--", "tsc")
    assert checked.returncode == 0, checked.stdout


def gathered(*arguments: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PLAYGROUND / "gather.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_bundles_are_gathered_in_the_order_of_quality(bundles: TinyBundles, tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page/index.html").touch()
    for variant, precision in [("bilstm", "fp32"), ("rnn", "int8"), ("rnn", "fp32")]:
        shutil.copytree(bundles(variant, "bpe", precision), tmp_path / "onnx" / variant / precision)  # type: ignore[arg-type]
    assert gathered(tmp_path / "onnx", tmp_path / "page").returncode == 0
    manifest = json.loads((tmp_path / "page/manifest.json").read_text(encoding="utf-8"))
    assert [each["path"] for each in manifest["bundles"]] == [
        "bundles/rnn/fp32",
        "bundles/rnn/int8",
        "bundles/bilstm/fp32",
    ]
    files = {path.name for path in (tmp_path / "page/bundles/rnn/int8").iterdir()}
    assert files == {"generator.onnx", "step.onnx", "tokenizer.json"}
    assert Bundle.open(tmp_path / "onnx/rnn/int8").variant == "rnn"


def test_what_cannot_be_gathered_is_named(refuses: Any, bundles: TinyBundles, tmp_path: Path) -> None:
    refuses(gathered(tmp_path, tmp_path), "no built page here")
    (tmp_path / "index.html").touch()
    refuses(gathered(tmp_path / "nowhere", tmp_path), "no bundle here")
    shutil.copytree(bundles("gru"), tmp_path / "onnx/gru/fp32")
    (tmp_path / "onnx/gru/fp32/step.onnx").write_bytes(b"")
    refuses(gathered(tmp_path / "onnx", tmp_path), "step.onnx")


@pytest.mark.parametrize("verification", [{"verified": False}, {"verified": None}, {}, None, "missing"])
def test_what_was_not_verified_is_not_gathered(
    refuses: Any, bundles: TinyBundles, tmp_path: Path, verification: Any
) -> None:
    (tmp_path / "index.html").touch()
    folder = shutil.copytree(bundles("gru"), tmp_path / "onnx/gru/fp32")
    description = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    del description["seal"], description["verification"]
    more = {} if verification == "missing" else {"verification": verification}
    write_sealed_json(folder / "bundle.json", description | more)
    refuses(gathered(tmp_path / "onnx", tmp_path), "it was not verified, so it is not shown")
