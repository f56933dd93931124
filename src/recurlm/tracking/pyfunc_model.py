"""A proven bundle as a folder that MLflow knows: text through `mlflow.pyfunc`, the raw graph through `mlflow.onnx`.

Both flavors share one copy of the files, and the runtime's code lies beside them: who loads the model needs no recurlm.
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
SERVED = Path(__file__).with_name("served.py")
CODE = ("__init__.py", "errors.py", "storage.py", "runtime")  # of recurlm, to run a bundle
NEEDED = ("mlflow", "numpy", "onnx", "onnxruntime", "pandas", "tokenizers")
TYPES = {"int": "long", "float": "double", "int | None": "long"}
EXAMPLES = {True: "KING.\n", False: "To be or ___ to be"}
EXAMPLE_PARAMS = {True: {"max_new_tokens": 50, "temperature": 0.8, "seed": 1}, False: {"temperature": 0.0}}


def proven(folder: Path) -> dict[str, Any]:
    """The description of a bundle that was proven, and each of whose files is the one that was.

    Raises:
        InputError: it was not, or a byte of it is another.
    """
    description = read_sealed_json(folder / "bundle.json")
    if (description.get("proof") or {}).get("passed") is not True:
        raise InputError(f"{folder}: its proof did not pass, and only proven bundles are registered: dvc repro")
    for file, noted in description["files"].items():
        check_sha256(folder / file, noted["sha256"])
    return dict(description)


@contextmanager
def packaged(bundle: Path, model_id: str, run: str) -> Iterator[Path]:
    """A folder in MLflow's format, for as long as the block lasts.

    Args:
        bundle: the folder of a proven bundle.
        model_id: MLflow's, of the model that the folder becomes.
        run: MLflow's id of the run that it belongs to.

    Raises:
        InputError: the bundle is not proven, or was changed.
    """
    causal = proven(bundle)["causal"]
    with TemporaryDirectory(prefix="recurlm-") as temporary, _quiet():
        folder, code = Path(temporary) / "model", _runtime(Path(temporary) / "recurlm")
        model = Model(run_id=run, model_id=model_id, model_uuid=model_id)
        example = pandas.DataFrame({"text": [EXAMPLES[causal]]})
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(SERVED),
            code_paths=[str(code)],
            artifacts={"bundle": str(bundle)},
            mlflow_model=model,
            signature=signature(causal),
            input_example=(example, EXAMPLE_PARAMS[causal]),
            pip_requirements=[f"{name}=={version(name)}" for name in NEEDED],
        )
        _add_graph(model, bundle.name, "generator.onnx" if causal else "filler.onnx")
        model.save(folder / "MLmodel")
        yield folder


def signature(causal: bool) -> ModelSignature:
    """Text to text, with the settings of the runtime's own function as params."""
    function: Callable[..., str] = Generator.generate if causal else Filler.fill
    settings = list(inspect.signature(function).parameters.values())[2:]
    params = [ParamSpec(each.name, TYPES[str(each.annotation)], each.default) for each in settings]
    text = Schema([ColSpec("string")])
    return ModelSignature(inputs=text, outputs=text, params=ParamSchema(params))


def _add_graph(model: Model, name: str, graph: str) -> None:
    """Let `mlflow.onnx` find the graph among the bundle's files; and forget the places of this machine."""
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


def _runtime(folder: Path) -> Path:
    folder.mkdir()
    for name in CODE:
        if (PACKAGE / name).is_dir():
            shutil.copytree(PACKAGE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(PACKAGE / name, folder / name)
    return folder


@contextmanager
def _quiet() -> Iterator[None]:
    """Without MLflow's bars for files that are copied, and its advice on type hints."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
