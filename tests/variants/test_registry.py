"""What lets a variant be added by one file, one registry line and one params block."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from recurlm import config
from recurlm.config import Variant
from recurlm.errors import InputError
from recurlm.model import build
from recurlm.variants import REGISTRY

ROOT = Path(__file__).parents[2]
PARAMS = config.load(ROOT / "params.yaml")
every_name = pytest.mark.parametrize("name", REGISTRY)


def own_imports(path: Path) -> set[str]:
    """The modules of this package that a file imports, as absolute names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found.add(node.module)
    return {module for module in found if module.split(".")[0] == "recurlm"}


def block(name: str, **changes: object) -> Variant:
    return Variant(**(PARAMS.variant(name).model_dump() | {"embedding_size": 5, "hidden_size": 6} | changes))


def test_every_variant_has_a_block_in_params_and_every_block_a_variant() -> None:
    assert set(REGISTRY) == set(PARAMS.variants)


@every_name
def test_a_variant_lives_in_the_file_of_its_name(name: str) -> None:
    assert REGISTRY[name].__module__ == f"recurlm.variants.{name}"


@every_name
def test_a_variant_imports_no_more_than_dvc_watches_for_it(name: str) -> None:
    """Its stages depend on its own file, base.py and the file named by `cell`: another import would go unnoticed."""
    folder = ROOT / "src/recurlm/variants"
    cell = PARAMS.variant(name).cell
    watched = {"recurlm.variants.base", f"recurlm.variants.{cell}"}
    assert own_imports(folder / f"{name}.py") <= watched
    assert own_imports(folder / f"{cell}.py") <= {"recurlm.variants.base"}
    assert own_imports(folder / "base.py") == set()


def test_the_registry_holds_nothing_but_names_and_classes() -> None:
    tree = ast.parse((ROOT / "src/recurlm/variants/__init__.py").read_text(encoding="utf-8"))
    docstring, *imports, registry = tree.body
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(node, ast.ImportFrom) for node in imports)
    assert isinstance(registry, ast.AnnAssign)


@every_name
def test_every_variant_is_built_from_its_block(name: str) -> None:
    model = build(name, block(name), vocab_size=11)
    assert model.vocab_size == 11
    assert type(model.recurrence) is REGISTRY[name]


@every_name
def test_an_unknown_parameter_names_the_nearest(name: str) -> None:
    with pytest.raises(InputError, match=rf"unknown parameter 'variants\.{name}\.dropuot': did you mean 'dropout'"):
        build(name, block(name, dropuot=0.1), vocab_size=11)


def test_a_parameter_of_another_variant_is_unknown() -> None:
    with pytest.raises(InputError, match=r"unknown parameter 'variants\.gru\.nonlinearity'"):
        build("gru", block("gru", nonlinearity="tanh"), vocab_size=11)


def test_an_own_parameter_misspelt_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'variants\.rnn\.nonlinearty': did you mean 'nonlinearity'"):
        build("rnn", block("rnn", nonlinearty="relu"), vocab_size=11)


@pytest.mark.parametrize(
    ("wrong", "hint"), [("rleu", r"did you mean 'relu'\?"), (3, "'tanh' or 'relu'"), (["tanh"], "")]
)
def test_a_wrong_nonlinearity_is_refused_with_the_nearest(wrong: object, hint: str) -> None:
    with pytest.raises(InputError, match=rf"'variants\.rnn\.nonlinearity' is .*{hint}"):
        build("rnn", block("rnn", nonlinearity=wrong), vocab_size=11)


def test_an_unknown_variant_names_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown variant 'lsmt': did you mean 'lstm'"):
        build("lsmt", block("lstm"), vocab_size=11)


def test_an_unknown_cell_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"variants\.bilstm\.cell is 'lstn': did you mean"):
        build("bilstm", block("bilstm", cell="lstn"), vocab_size=11)
