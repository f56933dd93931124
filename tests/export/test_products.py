"""Promises of products: those with weights are quantized, or the export fails; those of one value become one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from recurlm.export.products import join_functions, join_products
from recurlm.export.quantize import ACTIVATIONS, Quantizer, count_products, quantize_int4, quantize_int8
from recurlm.export.rewriter import key_of


def graph_of(nodes: list[onnx.NodeProto], **weights: np.ndarray) -> onnx.GraphProto:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "z")]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    return helper.make_graph(nodes, "products", inputs, outputs, initializers)


W, HEADS, KERNEL = np.ones((4, 4)), np.ones((3, 4, 4)), np.ones((4, 4, 2))
CANNOT_BE_QUANTIZED = {
    "weights on the left": graph_of([helper.make_node("MatMul", ["w", "x"], ["y"])], w=W),
    "weights computed from weights": graph_of(
        [helper.make_node("Transpose", ["w"], ["t"]), helper.make_node("MatMul", ["x", "t"], ["y"])], w=W
    ),
    "a matrix a head": graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], w=HEADS),
    "a scaled product": graph_of([helper.make_node("Gemm", ["x", "w"], ["y"], alpha=0.5)], w=W),
    "a sum over two axes": graph_of([helper.make_node("Einsum", ["x", "w"], ["y"], equation="bi,oi->bo")], w=W),
    "a convolution": graph_of([helper.make_node("Conv", ["x", "w"], ["y"])], w=KERNEL),
}


@pytest.mark.parametrize("case", CANNOT_BE_QUANTIZED)
def test_a_product_with_weights_that_cannot_be_quantized_is_an_error(case: str) -> None:
    graph = onnx.GraphProto()
    graph.CopyFrom(CANNOT_BE_QUANTIZED[case])
    assert count_products(graph)["fp32"] == 1
    with pytest.raises(ValueError, match="has weights that cannot be quantized where they stand"):
        Quantizer({}).write(graph, {})


@pytest.mark.parametrize("bias", [[], ["b"]])
def test_a_product_of_two_activations_is_left_as_it_is_and_counted_apart(bias: list[str]) -> None:
    kind = "Gemm" if bias else "MatMul"
    graph = graph_of([helper.make_node(kind, ["x", "z", *bias], ["y"])], b=np.ones(4))
    Quantizer({}).write(graph, {})
    assert [node.op_type for node in graph.node] == [kind]
    assert {name: count for name, count in count_products(graph).items() if count} == {ACTIVATIONS: 1}


def test_weights_of_the_graph_around_a_loop_are_weights_in_its_body() -> None:
    products = [("t", "a"), ("x", "c")]  # by what is computed from weights outside, and by an activation
    nodes = [helper.make_node("MatMul", ["s", right], [result]) for right, result in products]
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["going"]), *nodes],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("s", TensorProto.FLOAT, None)],
        [value("going", TensorProto.BOOL, []), *(value(result, TensorProto.FLOAT, None) for _, result in products)],
    )
    loop = helper.make_node("Loop", ["n", "", "z"], ["y", "all"], body=body)
    graph = graph_of([helper.make_node("Transpose", ["w"], ["t"]), loop], w=W, n=np.ones(()))
    counts = count_products(graph)
    assert (counts["fp32"], counts[ACTIVATIONS]) == (1, 1)


def kinds(graph: onnx.GraphProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.node)


def run(graph: onnx.GraphProto, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return np.asarray(onnxruntime.InferenceSession(model.SerializeToString()).run(["y"], {"x": x, "z": z})[0])


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_products_that_read_one_value_become_one_and_no_bit_changes(precision: str) -> None:
    draw = np.random.default_rng(0)
    weights = {
        name: draw.standard_normal((40, width)).astype(np.float32)
        for name, width in zip("abcd", (8, 3, 16, 8), strict=True)
    }
    products = [helper.make_node("MatMul", ["z" if name == "d" else "x", name], [f"{name}x"]) for name in "abcd"]
    functions = [helper.make_node("Sigmoid", [f"{name}x"], [f"{name}s"]) for name in "abd"]
    functions.append(helper.make_node("Sigmoid", ["ax"], ["again"]))
    graph = graph_of(
        [*products, *functions, helper.make_node("Concat", ["as", "bs", "cx", "ax", "ds", "again"], ["y"], axis=-1)],
        **weights,
    )
    moments = np.eye(40)
    quantized = {
        key_of(matrix): quantize_int8(matrix, 3.0) if precision == "int8" else quantize_int4(matrix, moments, 3.0, 16)
        for matrix in weights.values()
    }
    Quantizer(quantized).write(graph, {})
    x, z = draw.standard_normal((2, 5, 40)).astype(np.float32)
    before = run(graph, x, z)
    assert kinds(graph)["MatMulInteger"] == kinds(graph)["QuantizeLinear"] == 4
    join_products(graph)
    join_functions(graph)
    assert np.array_equal(run(graph, x, z), before)
    assert kinds(graph)["MatMulInteger"] == kinds(graph)["QuantizeLinear"] == 2  # that of z stands alone
    assert kinds(graph)["Sigmoid"] == 3  # of the joined ones, of that of z, and what is asked for twice
    assert count_products(graph)[precision] == 2


def test_where_products_read_different_values_nothing_changes() -> None:
    nodes = [helper.make_node("MatMul", ["x", "a"], ["ax"]), helper.make_node("MatMul", ["z", "b"], ["y"])]
    graph = graph_of(nodes, a=W, b=W)
    bytes_ = graph.SerializeToString()
    join_products(graph)
    join_functions(graph)
    assert graph.SerializeToString() == bytes_


def test_products_with_other_scales_of_one_value_stay_apart() -> None:
    weights = {"a": np.eye(4, dtype=np.float32), "b": 2 * np.eye(4, dtype=np.float32)}
    nodes = [helper.make_node("MatMul", ["x", name], [f"{name}x"]) for name in weights]
    graph = graph_of([*nodes, helper.make_node("Add", ["ax", "bx"], ["y"])], **weights)
    Quantizer({key_of(w): quantize_int8(w, 1.0 + n) for n, w in enumerate(weights.values())}).write(graph, {})
    join_products(graph)
    assert kinds(graph)["MatMulInteger"] == 2
