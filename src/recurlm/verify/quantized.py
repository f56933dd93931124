"""PyTorch with the arithmetic of an int8 or int4 bundle: the model's own code with quantized products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from recurlm.export.calibrate import key_of

aten = torch.ops.aten


class QuantizedProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside `with QuantizedProducts(…):` products with a quantized matrix use its quantized weights and inputs.

    A matrix is identified by a hash of its bytes, so that no parameter's name stands here.
    """

    def __init__(self, arithmetic: Mapping[str, Tensor]) -> None:
        """`arithmetic` is what `quantize.Quantizer` recorded when it wrote the graphs."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.arithmetic = arithmetic
        self.keys: dict[tuple[Any, ...], tuple[nn.Parameter, str]] = {}  # the parameter lives as long as its key
        self.tokens = torch.empty(0, dtype=torch.int64)
        self.met: set[str] = set()  # keys of the matrices that were used
        self.margin = torch.empty(0)
        """[batch]: the smallest distance of an input from an edge between two int8 values, in units of the scale. The
        caller sets it before a step."""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is aten.embedding.default:
            table, self.tokens = args[0], args[1]
            return self._of_token(func(*args, **(kwargs or {})), self._key(table))
        if func is aten.mm.default:
            return self._product(args[0], args[1], func)
        if func is aten.addmm.default:
            return self._product(args[1], args[2], aten.mm.default) + args[0]
        return func(*args, **(kwargs or {}))

    def _product(self, x: Tensor, weights: Tensor, exact: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        key = self._key(weights)
        if f"weights.{key}" not in self.arithmetic:
            return self._of_token(exact(x, weights), key)
        self.met.add(key)
        # The input is rounded as QuantizeLinear does, to uint8 with 128 for zero.
        scale = self.arithmetic[f"scale.{key}"]
        self._note_margin(x / scale)
        quantized = torch.clamp(torch.round(x / scale), -128, 127) * scale
        return exact(quantized, self.arithmetic[f"weights.{key}"])

    def _note_margin(self, steps: Float[Tensor, "rows inputs"]) -> None:
        """Each row of the batch may have several rows here: heads, for example."""
        if len(self.margin) and len(steps) % len(self.margin) == 0:
            nearest = (steps - torch.floor(steps) - 0.5).abs().view(len(self.margin), -1).amin(dim=1)
            self.margin = torch.minimum(self.margin, nearest)

    def _of_token(self, value: Tensor, key: str) -> Tensor:
        """A value of the last tokens, with the quantization error of their rows in the table added."""
        error = self.arithmetic.get(f"error.{key}")
        if error is None:
            return value
        self.met.add(key)
        return value + error[self.tokens]

    def _key(self, matrix: Tensor) -> str:
        """The key of a matrix's bytes: cached for a parameter or a view of one.

        Any other tensor is hashed each time that it is met: its memory, and so its address, may be used again.
        """
        base = matrix._base if matrix._base is not None else matrix
        if not isinstance(base, nn.Parameter):
            return key_of(matrix.detach().contiguous().numpy())
        place = (matrix.data_ptr(), tuple(matrix.shape), matrix.stride(), base._version)
        if place not in self.keys:
            self.keys[place] = (base, key_of(matrix.detach().contiguous().numpy()))
        return self.keys[place][1]
