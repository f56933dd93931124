"""From a torch module to an ONNX graph: torch's exporter, and what it takes to make its output clean and repeatable."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import onnx
import torch
from torch import Tensor, nn

from recurlm.export.exact_graph import REWRITTEN

if TYPE_CHECKING:
    import onnx_ir
    from torch.onnx._internal.exporter._registration import ONNXRegistry

# The exporter and the passes are imported where they are called: they take as long as torch itself, and a verification,
# which imports other parts of this package in each of its processes, traces nothing.


@cache
def _operators(opset_version: int) -> ONNXRegistry:
    """What torch translates to: the same in each export, for each of which it parses the source of 500 operators.

    An einsum becomes the products that torch computes it by, which have an exact form.
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    registry = ONNXRegistry.from_torchlib(opset_version=opset_version)
    del registry.functions["aten::einsum"]
    return registry


def trace(
    module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], opset: int, wide: Mapping[str, str] | None = None
) -> onnx.GraphProto:
    """Export `module`, whose first dimension of every input of rank one or more is the batch.

    Args:
        module: called with these tensors in their order, it returns one for each name of `outputs`.
        inputs: name → example; the example's batch must not be 0 or 1, which torch would freeze.
        outputs: names of the outputs.
        opset: version of the default operator set.
        wide: input → the name of its second dimension, where that may be any number too.

    Returns:
        A graph with its weights as initializers, every Transpose of a weight folded, and no trace of this machine.
    """
    batch = torch.export.Dim("batch")
    second = {name: {1: torch.export.Dim(dimension)} for name, dimension in (wide or {}).items()}
    shapes = tuple(({0: batch} if value.ndim else {}) | second.get(name, {}) for name, value in inputs.items())
    with warnings.catch_warnings(), _quiet(logging.getLogger("torch.onnx")), _quiet(logging.getLogger("onnxscript")):
        warnings.simplefilter("ignore")
        registry = _operators(opset)
        with patch.object(type(registry), "from_torchlib", staticmethod(lambda opset_version: registry)):
            program = torch.onnx.export(
                module,
                # One tensor given twice would be taken for one input, without a word.
                tuple(value.clone() for value in inputs.values()),
                input_names=list(inputs),
                dynamic_shapes=_as_arguments(module, shapes),
                opset_version=opset,
                dynamo=True,
                external_data=False,
                verbose=False,
                optimize=False,
            )
        assert program is not None
        _simplify(program.model, outputs)
    graph: onnx.GraphProto = program.model_proto.graph
    _clean(graph)
    return graph


def _simplify(model: onnx_ir.Model, outputs: list[str]) -> None:
    """Fold constants, give the outputs their names, and compute once what is computed twice."""
    from onnx_ir.passes import Sequential
    from onnx_ir.passes.common import CommonSubexpressionEliminationPass, DeduplicateInitializersPass, NameFixPass
    from onnxscript import optimizer

    # What int8 and int4 have an exact form of is left for it, where it reads weights alone too.
    fold = partial(optimizer.optimize_ir, should_fold=lambda node: False if node.op_type in REWRITTEN else None)
    fold(model)
    # Not before: a value that is two outputs is two values only now.
    for value, name in zip(model.graph.outputs, outputs, strict=True):
        value.name = name
    # A gate is computed by the same node for the state and as an output.
    Sequential(DeduplicateInitializersPass(size_limit=2**40), CommonSubexpressionEliminationPass())(model)
    fold(model)  # a large weight's Transpose is folded only where nothing else reads the weight
    NameFixPass()(model)  # a value within that has an output's name gets another one


def _as_arguments(module: nn.Module, shapes: tuple[dict[int, Any], ...]) -> tuple[Any, ...]:
    """One entry an argument of `forward`, where `*state` is a single argument."""
    *named, last = inspect.signature(module.forward).parameters.values()
    return (*shapes[: len(named)], shapes[len(named) :]) if last.kind is last.VAR_POSITIONAL else shapes


def _clean(graph: onnx.GraphProto) -> None:
    """Drop what names this machine (stack traces with paths) or would differ between two exports."""
    graph.name = "traced"
    graph.doc_string = ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for part in (*graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Hold a logger's warnings back for a while: of missing torchvision operators, of what is not folded."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
