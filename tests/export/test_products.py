"""Promises of which products are quantized: each with weights, or the export fails; products of activations are not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from recurlm.export.quantize import ACTIVATIONS, Quantizer, count_products


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
