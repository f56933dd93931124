"""A verified bundle as an MLflow model folder with two flavors: `mlflow.pyfunc` for text, `mlflow.onnx` for the graph.

Both flavors share one copy of the files. The runtime's code is included, so loading the model needs no recurlm.
"""

from __future__ import annotations

import inspect
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow.pyfunc
import onnx
import pandas
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

import recurlm
from recurlm.errors import InputError
from recurlm.runtime import Filler, Generator
from recurlm.storage import check_sha256, read_sealed_json

PACKAGE = Path(recurlm.__file__).parent
PYFUNC_CODE = Path(__file__).with_name("pyfunc_code.py")
CODE = ("__init__.py", "errors.py", "storage.py", "runtime")  # of recurlm, to run a bundle
NEEDED = ("mlflow", "numpy", "onnx", "onnxruntime", "pandas", "tokenizers")
# By annotation: MLflow's type, and its shape, which is None for a single value.
TYPES: dict[str, tuple[str, tuple[int] | None]] = {
    "int": ("long", None),
    "float": ("double", None),
    "int | None": ("long", None),
    "str | Sequence[str] | None": ("string", (-1,)),
}


# By graph: the runtime's function for it, an example text, and example settings.
TASKS: dict[str, tuple[Callable[..., str], str, dict[str, Any]]] = {
    "generator.onnx": (Generator.generate, "KING.\n", {"max_new_tokens": 50, "temperature": 0.8, "seed": 1}),
    "filler.onnx": (Filler.fill, "To be or ___ to be", {"temperature": 0.0}),
}


def verified_description(folder: Path) -> dict[str, Any]:
    """The description of a verified bundle, after the sha256 of each of its files was checked.

    Raises:
        InputError: the bundle is not verified, or one of its files was changed.
    """
    description = read_sealed_json(folder / "bundle.json")
    if (description.get("verification") or {}).get("verified") is not True:
        raise InputError(f"{folder}: its verification failed, and only verified bundles are registered: dvc repro")
    for file, entry in description["files"].items():
        check_sha256(folder / file, entry["sha256"])
    return dict(description)


@contextmanager
def model_folder(bundle: Path, model_id: str, run: str) -> Iterator[Path]:
    """A temporary folder in MLflow's model format.

    Args:
        bundle: the folder of a verified bundle.
        model_id: of the logged model that the folder becomes.
        run: the id of the model's run.

    Raises:
        InputError: the bundle is not verified, or was changed.
    """
    files = verified_description(bundle)["files"]
    graph = next(graph for graph in TASKS if graph in files)
    function, text, settings = TASKS[graph]
    with TemporaryDirectory(prefix="recurlm-") as temporary, _quiet():
        folder = Path(temporary) / "model"
        code = shutil.copytree(PACKAGE, Path(temporary) / "recurlm", ignore=_all_but_the_runtime)
        model = Model(run_id=run, model_id=model_id, model_uuid=model_id)
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(PYFUNC_CODE),
            code_paths=[str(code)],
            artifacts={"bundle": str(bundle)},
            mlflow_model=model,
            signature=signature(function),
            input_example=(pandas.DataFrame({"text": [text]}), settings),
            pip_requirements=[f"{name}=={version(name)}" for name in NEEDED],
        )
        _add_onnx_flavor(model, bundle.name, graph)
        model.save(folder / "MLmodel")
        yield folder


def signature(function: Callable[..., str]) -> ModelSignature:
    """Text to text, with the keyword arguments of the runtime's function as params."""
    settings = list(inspect.signature(function).parameters.values())[2:]
    params = []
    for each in settings:
        if each.kind is each.KEYWORD_ONLY:  # a callback
            continue
        kind, shape = TYPES[str(each.annotation)]
        params.append(ParamSpec(each.name, kind, [] if shape and each.default is None else each.default, shape))
    text = Schema([ColSpec("string")])
    return ModelSignature(inputs=text, outputs=text, params=ParamSchema(params))


def _add_onnx_flavor(model: Model, name: str, graph: str) -> None:
    """Point `mlflow.onnx` to the graph among the bundle's files, and replace this machine's absolute paths."""
    python = model.flavors["python_function"]
    python["artifacts"]["bundle"]["uri"] = python["artifacts"]["bundle"]["path"]
    python["model_code_path"] = Path(python["model_code_path"]).name
    model.add_flavor(
        "onnx",
        onnx_version=onnx.__version__,
        data=f"artifacts/{name}/{graph}",
        providers=["CPUExecutionProvider"],
        onnx_session_options=None,
        code=None,
    )


def _all_but_the_runtime(folder: str, names: list[str]) -> set[str]:
    return set(names) - set(CODE) if Path(folder) == PACKAGE else {"__pycache__"} & set(names)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence MLflow's progress bars and its advice on type hints."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
