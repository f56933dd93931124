"""Promises of the arithmetic in doubles: what machines compute in their own ways is double, and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from recurlm.export.assemble import to_model
from recurlm.export.upcast import upcast

X = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32)


def graph_of(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    weights = {"axis": np.array([-1]), "last": np.array(1), "w": np.full(50, 0.7, np.float32)}
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    read = {value for node in nodes for value in node.input}
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 50])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", "columns"])
    return helper.make_graph(nodes, "sums", [x], [y], [weight for weight in initializers if weight.name in read])


def run(graph: onnx.GraphProto) -> np.ndarray:
    model = to_model(graph, 18, 8, {}).SerializeToString()
    (y,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": X})
    return np.asarray(y)


GRAPHS = {
    kind: graph_of(helper.make_node(kind, ["x", "axis"], ["y"]))
    for kind in ("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSumExp")
} | {
    "CumSum": graph_of(helper.make_node("CumSum", ["x", "last"], ["y"])),
    "Softmax": graph_of(helper.make_node("Softmax", ["x"], ["y"])),
    "LayerNormalization": graph_of(helper.make_node("LayerNormalization", ["x", "w"], ["y"])),
    "MatMul": graph_of(
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]), helper.make_node("MatMul", ["x", "t"], ["y"])
    ),
    "Einsum": graph_of(helper.make_node("Einsum", ["x", "x"], ["y"], equation="ni,mi->nm")),
}


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_sum_is_computed_in_doubles_and_given_out_in_fp32(kind: str) -> None:
    before, after = GRAPHS[kind], onnx.GraphProto()
    after.CopyFrom(before)
    upcast(after)
    casts = [(node.attribute[0].i, node.output[0]) for node in after.node if node.op_type == "Cast"]
    (summed,) = (node for node in after.node if node.op_type == kind)
    assert all(value.endswith(".double") for value in summed.input if value not in ("axis", "last"))
    assert (TensorProto.FLOAT, "y") in casts
    y = run(after)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, run(before), rtol=1e-5, atol=1e-5)


def test_what_follows_from_a_sum_is_double_until_something_else_reads_it() -> None:
    """The root mean square of RMSNorm."""
    graph = graph_of(
        helper.make_node("Mul", ["x", "x"], ["square"]),
        helper.make_node("ReduceMean", ["square", "axis"], ["mean"]),
        helper.make_node("Sqrt", ["mean"], ["root"]),
        helper.make_node("Div", ["x", "root"], ["normed"]),
        helper.make_node("Concat", ["normed", "x"], ["y"], axis=-1),
    )
    upcast(graph)
    doubles = {node.op_type for node in graph.node if node.output[0].endswith(".double") and node.op_type != "Cast"}
    assert doubles == {"ReduceMean", "Sqrt", "Div"}
    x = X.astype(np.float64)
    expected = (x / np.sqrt((X * X).astype(np.float64).mean(axis=-1, keepdims=True))).astype(np.float32)
    np.testing.assert_array_equal(run(graph)[:, :50], expected)


def test_a_function_without_doubles_in_onnxruntime_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Erf differs from machine to machine.*'export\.portable: false'"):
        upcast(graph_of(helper.make_node("Erf", ["x"], ["y"])))
