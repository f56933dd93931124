"""zoo.yaml's blocks in params.yaml: copied as they stand, once each, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from configs import CHECKOUT, ZOO

from recurlm import config
from recurlm.errors import InputError
from recurlm.zoo import add_variants


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tuple(Path(shutil.copy(CHECKOUT / name, tmp_path)) for name in ("zoo.yaml", "params.yaml"))


def test_every_block_can_be_added_and_the_rest_of_params_stays_as_it_is(files: tuple[Path, Path]) -> None:
    zoo, params = files
    before = params.read_text(encoding="utf-8")
    assert add_variants(list(ZOO), zoo, params) == list(ZOO)
    assert params.read_text(encoding="utf-8").startswith(before)
    added = config.load(params).variants
    shared = config.load(CHECKOUT / "params.yaml").model
    assert {name: added[name] for name in ZOO} == {
        name: config.ModelConfig(**(shared | block)) for name, block in ZOO.items()
    }


def test_a_variant_that_is_there_stays_as_it_is(files: tuple[Path, Path]) -> None:
    zoo, params = files
    assert add_variants(["mamba2", "kda", "mamba2"], zoo, params) == ["mamba2", "kda"]
    text = params.read_text(encoding="utf-8").replace("mlp_ratio", "mlp_ratio ")
    params.write_text(text, encoding="utf-8")
    assert add_variants(["kda", "lstm"], zoo, params) == []
    assert params.read_text(encoding="utf-8") == text


def test_an_unknown_variant_changes_nothing_and_names_the_nearest(files: tuple[Path, Path]) -> None:
    zoo, params = files
    before = params.read_bytes()
    with pytest.raises(InputError, match=r"zoo\.yaml: no variant 'mamba4': did you mean 'mamba"):
        add_variants(["kda", "mamba4"], zoo, params)
    assert params.read_bytes() == before


def test_blocks_that_would_not_stand_under_variants_are_refused(files: tuple[Path, Path]) -> None:
    zoo, params = files
    text = params.read_text(encoding="utf-8")
    head, variants = text.split("\nvariants:\n")
    model, rest = head.split("\nmodel:\n")
    params.write_text(f"{model}\nvariants:\n{variants}\nmodel:\n{rest}\n", encoding="utf-8")
    before = params.read_bytes()
    with pytest.raises(InputError):
        add_variants(["kda"], zoo, params)
    assert params.read_bytes() == before


ODD = """variants:
  first:  # a comment behind the name
    cell: gru

    # and one inside, after a blank line
    hidden_size: 64
  # of the next
  second:
    cell: lstm
    hidden_size: 32"""


def test_blank_lines_comments_and_a_last_line_without_an_end_belong_to_their_block(files: tuple[Path, Path]) -> None:
    zoo, params = files
    zoo.write_text(ODD, encoding="utf-8")
    assert add_variants(["first", "second"], zoo, params) == ["first", "second"]
    added = config.load(params).variants
    assert [(added[name].cell, added[name].hidden_size) for name in ("first", "second")] == [("gru", 64), ("lstm", 32)]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("variants:\n  B2:\n    cell: gru\n", "B2", "B2"),
        ("variants:\n  small: {cell: gru}\n", "small", "'small' is not written as the others are"),
        ("variants:\n  small:\n    cell: gru\n   \n    hidden_size: 8\n    dropout:\n     0.5\n    \n", "small", ""),
        ("variants:\n   small:\n    cell: gru\n", "small", "'small' is not written as the others are"),
        ("all: &all\n  cell: gru\nvariants:\n  small:\n    <<: *all\n", "small", "params.yaml"),
    ],
)
def test_a_block_that_cannot_be_copied_is_one_line_and_one_that_can_is_whole(
    files: tuple[Path, Path], text: str, name: str, message: str
) -> None:
    zoo, params = files
    zoo.write_text(text, encoding="utf-8")
    before = params.read_bytes()
    if not message:
        add_variants([name], zoo, params)
        assert config.load(params).variants[name].dropout == 0.5
        return
    with pytest.raises(InputError, match=message):
        add_variants([name], zoo, params)
    assert params.read_bytes() == before
