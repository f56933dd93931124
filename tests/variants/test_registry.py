"""What lets a cell be added by one file and one registry line, and a variant by one block of params.yaml."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
import torch
from configs import CHECKOUT, LESSON, PARAMS, ZOO, model_config

from recurlm.config import ModelConfig
from recurlm.errors import InputError
from recurlm.model import build, count_parameters
from recurlm.variants import REGISTRY

every_name = pytest.mark.parametrize("name", PARAMS.variants)
every_cell = pytest.mark.parametrize("cell", REGISTRY)


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


def config_of(name: str, **changes: object) -> ModelConfig:
    return ModelConfig(**(PARAMS.variant(name).model_dump() | {"embedding_size": 5, "hidden_size": 6} | changes))


def test_every_cell_has_a_variant_in_params_or_zoo_and_every_variant_a_cell() -> None:
    assert {*LESSON, *(block["cell"] for block in ZOO.values())} == set(REGISTRY)
    assert not PARAMS.variants.keys() & ZOO.keys()


@pytest.mark.parametrize("name", ZOO)
def test_a_variant_of_the_zoo_has_as_many_parameters_as_the_lstm(name: str) -> None:
    def parameters(name: str, config: ModelConfig) -> int:
        return count_parameters(build(name, config, PARAMS.tokenize.vocab_size))

    found = parameters(name, ModelConfig(**(PARAMS.model | ZOO[name])))
    assert found == pytest.approx(parameters("lstm", PARAMS.variant("lstm")), rel=0.03)


@pytest.mark.parametrize("cell", [cell for cell in REGISTRY if "heads" in inspect.signature(REGISTRY[cell]).parameters])
def test_heads_that_do_not_divide_the_width_are_refused_in_one_line(cell: str) -> None:
    with pytest.raises(InputError, match=r"^params.yaml: 'variants\.mine': 5 heads do not divide a width of 12$"):
        build("mine", model_config(cell, hidden_size=12, heads=5), vocab_size=11)


@every_cell
def test_a_cell_lives_in_the_file_of_its_name(cell: str) -> None:
    assert REGISTRY[cell].__module__ == f"recurlm.variants.{cell}"


@every_cell
def test_a_cell_imports_no_more_than_dvc_watches_for_it(cell: str) -> None:
    """Its stages depend on its own file, base.py, compose.py and loop.py: another import would go unnoticed.

    Cells of zoo.yaml share linear.py too, which dvc.yaml says that DVC does not watch.
    """
    folder = CHECKOUT / "src/recurlm/variants"
    watched = {"recurlm.variants.base", "recurlm.variants.loop"}
    shared = set() if cell in LESSON else {"recurlm.variants.linear"}
    assert own_imports(folder / f"{cell}.py") <= watched | shared
    assert own_imports(folder / "compose.py") == {"recurlm.variants.base"}
    assert own_imports(folder / "loop.py") == {"recurlm.variants.base"}
    assert own_imports(folder / "base.py") == set()


def test_the_registry_holds_nothing_but_names_and_classes() -> None:
    tree = ast.parse((CHECKOUT / "src/recurlm/variants/__init__.py").read_text(encoding="utf-8"))
    docstring, *imports, registry = tree.body
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(node, ast.ImportFrom) for node in imports)
    assert isinstance(registry, ast.AnnAssign)


@every_name
def test_every_variant_is_built_from_its_block(name: str) -> None:
    model = build(name, config_of(name), vocab_size=11)
    assert model.vocab_size == 11
    cell = REGISTRY[PARAMS.variant(name).cell]
    assert sum(isinstance(module, cell) for module in model.modules()) == (4 if name == "bilstm" else 2)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("width", [6, 64])
@every_cell
def test_a_fresh_model_in_residual_blocks_finds_every_token_about_equally_likely(
    cell: str, width: int, tied: bool
) -> None:
    """With tied weights, its input would reach the output, and it would predict the token that it has just read."""
    torch.manual_seed(1)
    sizes = {"embedding_size": width, "hidden_size": width, "tie_weights": tied}
    config = model_config(cell, **sizes, block="residual", conv=4, mlp_ratio=1.0, concat_layers=False)
    model = build("blocks", config, 50)
    tokens = torch.randint(50, (8, 30))
    logits, _ = model(tokens[:, :-1], model.initial_state(8))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(float(loss) - torch.tensor(50.0).log()) < (1e-5 if tied else 0.5)


@every_name
def test_an_unknown_parameter_names_the_nearest(name: str) -> None:
    with pytest.raises(InputError, match=rf"unknown parameter 'variants\.{name}\.dropuot': did you mean 'dropout'"):
        build(name, config_of(name, dropuot=0.1), vocab_size=11)


def test_a_parameter_of_another_cell_is_unknown() -> None:
    with pytest.raises(InputError, match=r"unknown parameter 'variants\.gru\.nonlinearity'"):
        build("gru", config_of("gru", nonlinearity="tanh"), vocab_size=11)


def test_an_own_parameter_misspelt_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'variants\.rnn\.nonlinearty': did you mean 'nonlinearity'"):
        build("rnn", config_of("rnn", nonlinearty="relu"), vocab_size=11)


@pytest.mark.parametrize(
    ("wrong", "hint"), [("rleu", r"did you mean 'relu'\?"), (3, "'tanh' or 'relu'"), (["tanh"], "")]
)
def test_a_wrong_nonlinearity_is_refused_with_the_nearest(wrong: object, hint: str) -> None:
    with pytest.raises(InputError, match=rf"'variants\.rnn\.nonlinearity' is .*{hint}"):
        build("rnn", config_of("rnn", nonlinearity=wrong), vocab_size=11)


OWN = [
    (cell, parameter)
    for cell, constructor in REGISTRY.items()
    for parameter in inspect.signature(constructor).parameters.values()
    if parameter.name not in ("input_size", "hidden_size")
]


@pytest.mark.parametrize(("cell", "parameter"), OWN, ids=lambda part: getattr(part, "name", part))
@pytest.mark.parametrize("wrong", [-1, 0, 2**20 + 1, 7.5, True, "x", [1], {}])
def test_a_wrong_value_of_a_cell_s_own_parameter_is_one_line(
    cell: str, parameter: inspect.Parameter, wrong: object
) -> None:
    name, default = parameter.name, parameter.default
    if wrong == default or (wrong is True and isinstance(default, bool)):
        return
    with pytest.raises(InputError, match=rf"^params\.yaml: 'variants\.mine(\.{name})?'[^\n]+$") as error:
        build("mine", model_config(cell, embedding_size=12, hidden_size=12, **{name: wrong}), vocab_size=11)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cell", "values", "message"),
    [
        ("mamba3", {"key_size": 1}, "a key of 1 has no pair that turns"),
        ("mamba3", {"heads": 12}, "a key of 1 has no pair that turns"),
        ("transformer", {"window": 1}, "a window of 1 holds no past"),
    ],
)
def test_sizes_that_leave_nothing_are_refused(cell: str, values: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=rf"^params\.yaml: 'variants\.mine': {message}$"):
        build("mine", model_config(cell, embedding_size=12, hidden_size=12, **values), vocab_size=11)


def test_an_unknown_cell_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"variants\.bilstm\.cell is 'lstn': did you mean"):
        build("bilstm", config_of("bilstm", cell="lstn"), vocab_size=11)


@pytest.mark.parametrize("change", [{"conv": 4}, {"mlp_ratio": 1.0}])
def test_parts_of_a_residual_block_without_the_block_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"'variants\.gru': conv and mlp_ratio need 'block: residual'"):
        build("gru", config_of("gru", **change), vocab_size=11)
