"""The PyTorch reference of every comparison."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from recurlm.config import Sampling
from recurlm.export.sampling import sample, suppression
from recurlm.model import LanguageModel
from recurlm.objective import objective_of

SHIFTS = (-2.0, 0.0, 2.0)  # of the uniform number, in units of the float error: see `near_tie`


class Reference:
    """A model with sampling in torch, token by token."""

    def __init__(self, model: LanguageModel, suppressed: list[int]) -> None:
        self.model = model
        self.objective = objective_of(model)
        self.suppressed = suppression(model.vocab_size, suppressed)

    def draw(
        self,
        logits: Float[Tensor, "rows vocabulary"],
        uniform: Float[np.ndarray, "rows"],
        sampling: Sampling,
    ) -> Int[Tensor, "rows"]:
        """One token a row."""
        rows = len(logits)
        return sample(
            logits,
            torch.full((rows,), sampling.temperature),
            torch.full((rows,), sampling.top_k),
            torch.full((rows,), sampling.top_p),
            torch.from_numpy(uniform),
            self.suppressed,
        )

    def generate(
        self, prompt: Int[np.ndarray, "time"], uniform: Float[np.ndarray, "new_time"], sampling: Sampling
    ) -> tuple[Int[np.ndarray, "new_time"], Float[Tensor, "new_time vocabulary"]]:
        """The tokens after a prompt, and the logits that each was drawn from."""
        state = self.model.initial_state(1)
        for token in prompt[:-1]:
            _, state = self.model.step(torch.tensor([token]), state)
        token = torch.tensor(prompt[-1:])
        tokens, all_logits = [], []
        for number in uniform:
            logits, state = self.model.step(token, state)
            token = self.draw(logits, np.array([number]), sampling)
            tokens.append(token.item())
            all_logits.append(logits)
        return np.array(tokens, np.int64), torch.cat(all_logits)

    def near_tie(
        self,
        logits: Float[Tensor, "vocabulary"],
        uniform: float,
        sampling: Sampling,
        other: int,
        error: float,
    ) -> bool:
        """Whether torch itself would have drawn `other`, had its logits been off by no more than `error`.

        Raising one logit by ε moves probabilities by less than ε, so the uniform number is shifted by up to 2ε as
        well.
        """
        raised = logits.clone()
        raised[other] += error
        numbers = np.clip([uniform + shift * error for shift in SHIFTS], 0, 1 - 2**-24).astype(np.float32)
        return other in self.draw(raised.expand(len(SHIFTS), -1), numbers, sampling).tolist()
