"""The loop over time of cells whose state passes a nonlinearity, so that no step can begin before the one before it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recurlm.variants.base import State, mask_state


def over_time(
    cell: Callable[[Tensor, State], tuple[Tensor, State]],
    a: Float[Tensor, "batch time *features"],
    state: State,
    reset: Bool[Tensor, "batch time"] | None = None,
) -> tuple[Float[Tensor, "batch time *output"], State]:
    """Apply `cell(a[:, t], state)` to all elements of a chunk in turn.

    What does not wait for the state, such as the products with the inputs, belongs into `a`: computed once for the
    whole chunk. Under autocast the state stays in its own precision.
    """
    some = [False] * a.shape[1] if reset is None else reset.any(0).tolist()
    outputs = []
    for t, at in enumerate(a.to(next(iter(state.values())).dtype).unbind(1)):
        if some[t] and reset is not None:
            state = mask_state(state, ~reset[:, t])
        y, state = cell(at, state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state
