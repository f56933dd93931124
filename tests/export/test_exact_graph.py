"""Promises of rewritten graphs: each operator gives PyTorch's bits; what has no exact form is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional as F

from recurlm.errors import InputError
from recurlm.export import exact
from recurlm.export.exact_graph import APPROXIMATED, rewrite
from recurlm.export.steps import FunctionModule
from recurlm.export.trace import trace
from recurlm.verify.quantized import QuantizedArithmetic

ROWS, WIDTH = 400, 6
Functions = dict[str, Callable[..., Tensor]]

# Of x and y, any numbers, and of p > 0.
POINTWISE: Functions = {
    "tanh": lambda x, y, p: torch.tanh(x),
    "tanh, halved and moved": lambda x, y, p: torch.tanh(y) * 0.5 + 0.25,
    "tanh, halved": lambda x, y, p: torch.tanh(-x) * 0.5,
    "tanh times another number": lambda x, y, p: torch.tanh(-y) * 0.3 + 0.25,
    "sigmoid": lambda x, y, p: torch.sigmoid(x),
    "silu": lambda x, y, p: F.silu(x),
    "exp": lambda x, y, p: torch.exp(x),
    "expm1": lambda x, y, p: torch.expm1(x),
    "log": lambda x, y, p: torch.log(p),
    "log1p": lambda x, y, p: torch.log1p(p),
    "softplus": lambda x, y, p: F.softplus(x),
    "logsigmoid": lambda x, y, p: F.logsigmoid(x),
    "logaddexp": lambda x, y, p: torch.logaddexp(x, y),
    "sin": lambda x, y, p: torch.sin(x),
    "cos": lambda x, y, p: torch.cos(x),
    "sqrt": lambda x, y, p: torch.sqrt(p),
    "rsqrt": lambda x, y, p: torch.rsqrt(p),
    "reciprocal": lambda x, y, p: torch.reciprocal(x),
    "relu": lambda x, y, p: torch.relu(x),
    "leaky_relu": lambda x, y, p: F.leaky_relu(x, 0.1),
    "glu": lambda x, y, p: F.glu(x),
    "lerp": lambda x, y, p: torch.lerp(x, y, torch.sigmoid(p)),
    "lerp by a number": lambda x, y, p: torch.lerp(x, y, 0.3),
    "addcmul": lambda x, y, p: torch.addcmul(x, y, p),
    "addcmul with a factor": lambda x, y, p: torch.addcmul(x, y, p, value=0.3),
    "add with a factor": lambda x, y, p: torch.add(x, y, alpha=0.3),
    "sub with a factor": lambda x, y, p: torch.sub(x, y, alpha=0.3),
    "difference from 1": lambda x, y, p: 1 - x,
    "clamp": lambda x, y, p: torch.clamp(x, -0.3, 0.7),
    "round": lambda x, y, p: torch.round(x) + torch.floor(y) - torch.ceil(x),
    "where": lambda x, y, p: torch.where(x > y, x.abs(), torch.minimum(y, p)),
    "repeat": lambda x, y, p: torch.repeat_interleave(x, 2, dim=-1) * y.repeat(1, 2),
    **{f"power {exponent}": lambda x, y, p, e=exponent: torch.pow(p, e) for exponent in exact.POWERS},
    # onnxruntime would put y / p, which is rounded once and not twice, where 1 / p is read nowhere else.
    "product with a reciprocal": lambda x, y, p: y * torch.reciprocal(p + 1),
    "product with 1 / p": lambda x, y, p: (1 / (p + 2)) * y,
    "product with rsqrt": lambda x, y, p: torch.rsqrt(p + 3) * y,
    "product with a power": lambda x, y, p: y * torch.pow(p + 4, -2),
}
# Of x and y with several axes.
ALONG: Functions = {
    f"{name}, axis {axis}": lambda x, y, f=function, a=axis: f(x, a)
    for axis in (-1, 1)
    for name, function in {
        "sum": lambda x, a: x.sum(a),
        "sum that keeps its axis": lambda x, a: x.sum(a, keepdim=True),
        "mean": lambda x, a: x.mean(a, keepdim=True),
        "norm": lambda x, a: torch.linalg.vector_norm(x, dim=a),
        "normalize": lambda x, a: F.normalize(x, dim=a),
        "cumsum": lambda x, a: torch.cumsum(x, a),
        "softmax": lambda x, a: torch.softmax(x, a),
        "log_softmax": lambda x, a: torch.log_softmax(x, a),
        "logsumexp": lambda x, a: torch.logsumexp(x, a),
        "amax": lambda x, a: torch.amax(x, a),
    }.items()
} | {
    "softmax where some is masked": lambda x, y: torch.softmax(
        x.masked_fill(y < y.amax(-1, keepdim=True), -torch.inf), -1
    ),
    "layer norm": lambda x, y: F.layer_norm(x, x.shape[-1:]),
    "matmul": lambda x, y: torch.matmul(x, y.transpose(-1, -2)),
    "matmul over a size of 1": lambda x, y: x[..., :1] @ y[..., :1, :],
    "einsum": lambda x, y: torch.einsum("bik,bjk->bij", x, y),
    "einsum whose result is transposed": lambda x, y: torch.einsum("bik,bjk->bji", x, y),
    "einsum over an outer axis": lambda x, y: torch.einsum("bki,bkj->bij", x, y),
    "einsum without a sum": lambda x, y: torch.einsum("bi,bj->bij", x[:, 0], y[:, 0]),
    "einsum at each place": lambda x, y: torch.einsum("bij,bij->bi", x, y),
}


class Every(nn.Module):
    """All functions at once: tracing one module takes as long as tracing many functions."""

    def __init__(self, functions: Functions, modules: list[nn.Module]) -> None:
        super().__init__()
        self.functions = functions
        self.own = nn.ModuleList(modules)
        self.A = nn.Parameter(torch.randn(3))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values = [function(*inputs) for function in self.functions.values()]
        values += [module(inputs[0]) for module in self.own]
        return (*values, torch.exp(self.A).repeat_interleave(2), *self.in_place(inputs[0]))

    def in_place(self, x: Tensor) -> list[Tensor]:
        y = torch.zeros_like(x)
        y += x
        return [y.mul_(0.3).tanh_()]


def numbers(*shape: int, seed: int, size: float) -> Tensor:
    """Random numbers up to 2^size with exponents of every size, and every extreme one."""
    generator = np.random.default_rng(seed)
    values = np.ldexp(generator.uniform(-1, 1, shape), generator.integers(-30, size, shape, endpoint=True))
    values = np.where(generator.random(shape) < 0.5, values, generator.normal(0, 3, shape)).astype(np.float32)
    extremes = [0.0, 1.0, -1.0, 0.5, 2.5, -87.0, 88.0, 20.0, 2.0**size, -(2.0**size), 1e-38]
    places = generator.choice(values.size, 4 * len(extremes), replace=False)
    values.flat[places] = np.tile(np.float32(extremes), 4)
    return torch.from_numpy(values)


def session(graph: onnx.GraphProto) -> onnxruntime.InferenceSession:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def check(module: Every, inputs: dict[str, Tensor]) -> None:
    module.eval().requires_grad_(False)
    names = [*module.functions, *(str(own) for own in module.own), "exp of weights", "in place"]
    graph = trace(module, {name: value[:3] for name, value in inputs.items()}, names, 18)
    rewrite(graph)
    sums = {node.input[0] for node in graph.node if node.op_type == "ReduceSum"}
    assert sums <= {node.output[0] for node in graph.node if node.op_type == "Sub"}  # on the grid of `exact.total`
    assert not {node.op_type for node in graph.node} & (set(APPROXIMATED.split()) - {"ReduceSum"})
    found = session(graph).run(names, {name: value.numpy() for name, value in inputs.items()})
    with QuantizedArithmetic({}, module):
        expected = module(*inputs.values())
    for name, value, reference in zip(names, found, expected, strict=True):
        assert np.isfinite(value).mean() > 0.9, name
        np.testing.assert_array_equal(value, reference.numpy(), err_msg=name)


def test_functions_of_numbers_are_pytorchs_bit_for_bit() -> None:
    p = numbers(ROWS, WIDTH, seed=2, size=30).abs() + 2.0**-30
    x, y = (numbers(ROWS, WIDTH, seed=seed, size=12) for seed in (0, 1))
    check(Every(POINTWISE, []), {"x": x, "y": y, "p": p})


@pytest.mark.parametrize("size", [1, 3, 8, 40])
def test_sums_and_products_are_pytorchs_bit_for_bit(size: int) -> None:
    x, y = (numbers(ROWS, 4, size, seed=seed, size=12) for seed in (0, 1))
    norms = [nn.LayerNorm(size), nn.GroupNorm(2, 4), nn.GroupNorm(4, 4)]
    for parameter in (parameter for norm in norms for parameter in norm.parameters()):
        nn.init.normal_(parameter)
    check(Every(ALONG, norms), {"x": x, "y": y})


# Functions of x that int8 and int4 have no exact form of, and what the graph and PyTorch say of each.
UNKNOWN: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "erf": (torch.erf, "Erf", "torch's erf"),
    "power": (lambda x: torch.pow(x.abs(), 1.7), "powers", "powers"),
    "sum": (lambda x: x.sum((1, 2)), "ReduceSum over 2 axes", "a sum over 2 axes"),
    "prod": (lambda x: x.prod(1), "ReduceProd", "torch's prod"),
    "mean of all": (lambda x: x.mean(), "ReduceMean over all axes", "a sum over all axes"),
    "sum of magnitudes": (lambda x: torch.linalg.vector_norm(x, ord=1, dim=-1), "ReduceL1", "a norm of order 1"),
    "layer norm": (lambda x: F.layer_norm(x, (4, 5)), "LayerNormalization over several axes", "over 2 axes"),
    "vector": (lambda x: x @ x[0, 0], "a product with a vector", "torch's mv"),
    "atan": (torch.atan, "Atan", "torch's atan"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_has_no_exact_form_is_one_clear_error_in_the_graph_and_in_pytorch(name: str) -> None:
    function, in_graph, in_torch = UNKNOWN[name]
    x = torch.randn(3, 4, 5)
    graph = trace(FunctionModule(function), {"x": x}, ["y"], 18)
    with pytest.raises(InputError, match=rf"^int8 and int4 have .*{in_graph}[^\n]*docs/extending.md") as error:
        rewrite(graph)
    assert "\n" not in str(error.value)
    with (
        QuantizedArithmetic({}),
        pytest.raises(InputError, match=rf"^int8 and int4 have .*{in_torch}[^\n]*docs/extending.md"),
    ):
        function(x)


def test_an_operator_that_onnx_gets_one_day_is_an_error() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    graph = helper.make_graph([helper.make_node("Bessel", ["x"], ["y"])], "one", [x], [y])
    with pytest.raises(InputError, match="no exact form of Bessel"):
        rewrite(graph)
