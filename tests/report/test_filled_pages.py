"""README.md and docs/ are made from the present results, by one command that also notices when they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from configs import CHECKOUT
from fabricated_results import write, write_lock, write_results

from recurlm.errors import InputError
from recurlm.report import pages
from recurlm.storage import read_json

VARIANTS = ("rnn", "gru", "lstm", "bilstm")


def test_the_pages_of_this_checkout_are_what_its_results_say() -> None:
    assert pages.check(CHECKOUT) == []


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with four results, and pages with a mark of each kind."""
    write_results(tmp_path, VARIANTS)
    (tmp_path / "docs").mkdir()
    for name in pages.PAGES:
        (tmp_path / name).write_text("# A page\n", encoding="utf-8")
    page = "```sh\nrecurlm --version    # which?\n```\n<!-- output: recurlm -->\nof old\n<!-- /output -->\n"
    page += "<!-- text: results -->\n<!-- /text -->\nand <!-- figure: lstm.json test.tokens -->3<!-- /figure -->\n"
    (tmp_path / "README.md").write_text(page, encoding="utf-8")
    monkeypatch.setattr(pages, "draw_pictures", lambda measured, folder: [])
    return tmp_path


def test_one_command_fills_tables_figures_and_what_commands_print(root: Path) -> None:
    assert pages.check(root) == ["README.md is not what the results say"]
    assert pages.write(root) == ["README.md: filled"]
    text = (root / "README.md").read_text(encoding="utf-8")
    assert "<!-- output: recurlm -->\n```text\nrecurlm 0" in text
    assert "of old" not in text
    assert "| lstm | 2 × 8 | 1,236 | 1.750 | 33.1 | — | — | — | — |" in text
    assert "-->40<!--" in text
    assert read_json(root / pages.MADE_FROM).keys() == {
        f"data/{kind}/{name}" for kind in ("models", "onnx") for name in VARIANTS
    }
    assert pages.check(root) == []
    assert pages.write(root) == []


def test_another_score_and_another_model_are_noticed(root: Path) -> None:
    pages.write(root)
    metrics = read_json(root / "data/metrics/lstm.json")
    metrics["test"]["bits_per_byte"] = 1.5
    write(root / "data/metrics/lstm.json", metrics)
    assert pages.check(root) == ["README.md is not what the results say"]
    with pytest.raises(InputError, match=r"lstm: data/metrics/lstm\.json is not what evaluate@lstm wrote: dvc repro"):
        pages.write(root)
    (root / "data/models/gru/model.safetensors").write_bytes(b"trained anew")
    write_lock(root)
    assert "of other models than dvc.lock's" in pages.check(root)[1]


def test_a_text_that_a_clone_cannot_generate_is_kept(root: Path) -> None:
    pages.write(root)
    (root / "data/onnx/lstm/fp32/bundle.json").unlink()
    assert pages.check(root) == []
