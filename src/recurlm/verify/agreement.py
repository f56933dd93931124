"""`verify`: all checks of one bundle, in order, and their results."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Set
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from safetensors.torch import load_file
from tqdm import tqdm

from recurlm.config import Evaluate, Sampling, Verify
from recurlm.evaluation.perplexity import total
from recurlm.evaluation.windows import batches, split_windows
from recurlm.export.bundle import QUANTIZED, never_drawn
from recurlm.model import LanguageModel
from recurlm.objective import objective_of
from recurlm.storage import read_json
from recurlm.tokens.files import TokenFile
from recurlm.verify import checks, edges
from recurlm.verify.checks import (
    FREE,
    GREEDY,
    Agreement,
    Comparison,
    VerificationError,
    few_near_ties,
    onnx_scorer,
)
from recurlm.verify.quantized import QuantizedArithmetic
from recurlm.verify.reference import Extra, Reference
from recurlm.verify.sessions import Graphs, prompts_of, texts_of

EDGE_TOKENS = 20  # a row, beside edges and with settings of its own
EXTRA_TOKENS = 40  # a row, with min_p and a repetition penalty
CALL_TOKENS = sum(checks.CHUNKS) + checks.CHUNKS[-1]


def verify(
    variant: str,
    model: LanguageModel,
    folder: Path,
    held_out: TokenFile,
    metrics: dict[str, Any],
    settings: Verify,
    scoring: Evaluate,
    line: int = 0,
) -> dict[str, Any]:
    """Compare the graphs in `folder` with the model that they were made from.

    fp32 graphs equal the model up to float error. int8 and int4 graphs equal the model in their arithmetic bit for bit,
    and raise the perplexity by no more than `settings` allows.

    Args:
        held_out: the test split.
        metrics: of the evaluate stage, of this model on that split, with the settings `scoring`.
        line: of the terminal that shows the progress bar: several verifications may run in parallel.
    """
    reference = reference_of(model, folder, held_out.manifest)
    verification = Verification(reference, folder, held_out, metrics, settings, scoring, label=variant, line=line)
    verification.run()
    return verification.summary()


def reference_of(model: LanguageModel, folder: Path, tokens: dict[str, Any]) -> Reference:
    """The model in the arithmetic of the graphs in `folder`; which tokens it never draws, data/tokens says."""
    precision = read_json(folder / "graphs.json")["precision"]
    arithmetic = None if precision == "fp32" else QuantizedArithmetic(load_file(folder / QUANTIZED), model)
    return Reference(model, never_drawn(tokens["special"], objective_of(model)), arithmetic)


@dataclass
class Verification:
    """The checks of the graphs in one folder; the arguments are those of `verify`."""

    reference: Reference
    folder: Path
    held_out: TokenFile
    metrics: dict[str, Any]
    settings: Verify
    scoring: Evaluate
    error: float | None = None
    """Of the logits, by which all is judged: the first check measures it. Give it where that check does not run."""
    label: str = ""
    line: int = 0
    agreements: list[Agreement] = field(default_factory=list)  # one for each sampling setting
    further: list[Agreement] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    chunked: list[bool] = field(default_factory=list)  # one for each sampling setting
    verified: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.description = read_json(self.folder / "graphs.json")
        graphs = Graphs(self.folder, torch.get_num_threads())
        self.comparison = Comparison(self.reference, graphs, self.settings.logit_tolerance, self.error)
        self.text = np.asarray(self.held_out.ids, np.int64)
        self.prompts = prompts_of(self.text)

    def run(self, graphs: Set[str] | None = None) -> None:
        """Run all checks, or those that read one of some graphs; what is quick and sees much comes first."""
        for reads, check in self.checks():
            if graphs is None or graphs & set(reads.split()):
                result = check()
                if isinstance(result, Agreement):
                    self.further.append(result)
        few_near_ties([*self.agreements, *self.further])
        arithmetic = self.reference.arithmetic
        if arithmetic is not None and arithmetic.met != {key.split(".")[1] for key in arithmetic.arithmetic}:
            raise VerificationError("a matrix was quantized that PyTorch never read")
        self.verified = graphs is None

    def checks(self) -> list[tuple[str, Callable[[], object]]]:
        """Each with the graphs that it reads."""
        comparison, rows = self.comparison, self.prompts
        model = self.reference.model
        texts = (rows, edges.every_token(model), edges.short_texts(model))
        in_fp32, below = ("step scorer" if comparison.cloze else "step", self._logits), ("step", self._steps)
        drawing = self._of_the_filler() if comparison.cloze else self._of_the_generator()
        return [
            below if comparison.exact else in_fp32,
            ("step", partial(edges.every_token_steps, comparison)),
            ("step scorer generator filler", partial(edges.halves, comparison) if comparison.exact else self._weights),
            *(("scorer", partial(comparison.scored, text)) for text in texts),
            *(("filler" if comparison.cloze else "generator", check) for check in drawing),
            *([] if comparison.cloze else [("scorer", partial(comparison.scored_in_parts, rows))]),
            ("scorer", self._perplexity),
        ]

    def _of_the_filler(self) -> list[Callable[[], object]]:
        return [
            partial(edges.drawn_beside_edges, self.comparison, self.prompts, 0),
            partial(edges.mixed_settings, self.comparison, self.prompts, 0),
            partial(edges.short_texts_filled, self.comparison),
            self._filled,
        ]

    def _of_the_generator(self) -> list[Callable[[], object]]:
        comparison, rows = self.comparison, self.prompts
        numbers = np.random.default_rng(2).random((len(rows), CALL_TOKENS), np.float32)
        return [
            # The states right after the prompts: what differs in them is forgotten after many tokens.
            partial(comparison.generated, rows, np.zeros((len(rows), 1), np.float32), GREEDY),
            partial(edges.mixed_settings, comparison, rows, EDGE_TOKENS),
            partial(edges.drawn_beside_edges, comparison, rows, EDGE_TOKENS),
            self._extra,
            partial(edges.every_token_generates, comparison),
            partial(checks.in_parts, comparison.graphs, rows, numbers[:, :EXTRA_TOKENS]),
            partial(checks.stopped, comparison.graphs, rows, numbers, comparison.stop_tolerance),
            *(partial(self._chunked, rows[-1], numbers[0], each) for each in self._settings()),
            self._generated,
        ]

    def _chunked(self, *arguments: Any) -> None:
        self.chunked.append(checks.chunked(self.comparison.graphs, *arguments))

    def _logits(self) -> None:
        """fp32: the error by which all that follows is judged."""
        difference = self.results["largest_logit_difference"] = self.comparison.logits(self.text)
        self.comparison.error = max(difference, 1e-6)

    def _steps(self) -> None:
        self.results |= {"largest_logit_difference": 0.0, "steps_equal": self.comparison.steps(self.text)}

    def _weights(self) -> None:
        """fp32: every graph has step.onnx's weights, to the bit: a small change of one would hide within the error."""
        graphs = self.comparison.graphs
        own = graphs.weights("step")
        for file in self.reference.objective.graphs:
            name = file.removesuffix(".onnx")
            for content, weight in graphs.weights(name).items():
                if content not in own:
                    raise VerificationError(f"{file} computes with {weight}, which is no weight of step.onnx")

    def _settings(self) -> tuple[Sampling, ...]:
        return (GREEDY, *self.settings.sampling)

    def _extra(self) -> Agreement:
        """With min_p and a repetition penalty, other ones in each row."""
        rows = len(self.prompts)
        uniform = np.random.default_rng(1).random((rows, min(self._time(), EXTRA_TOKENS)), np.float32)
        extra = Extra(torch.linspace(0, 0.2, rows), torch.linspace(1, 1.5, rows).flip(0))
        return self.comparison.generated(self.prompts, uniform, FREE, extra)

    def _time(self) -> int:
        return math.ceil(self.settings.num_tokens / len(self.prompts))

    def _generated(self) -> None:
        """Tokens of each sampling setting, greedy first: rows of one batch in PyTorch.

        generator.onnx has a call for each, since what it ranks depends on all settings of a call.
        """
        settings, count = self._settings(), len(self.prompts)
        each = [sampling for sampling in settings for _ in range(count)]
        uniform = np.concatenate(
            [np.random.default_rng(index).random((count, self._time()), np.float32) for index in range(len(settings))]
        )
        calls = [range(index * count, (index + 1) * count) for index in range(len(settings))]
        agreement = self.comparison.generated(self.prompts * len(settings), uniform, each, calls=calls)
        for index in range(len(settings)):
            ties = [replace(tie, row=tie.row % count) for tie in agreement.near_ties if tie.row // count == index]
            self.agreements.append(Agreement(agreement.tokens // len(settings), ties))

    def _filled(self) -> None:
        rows = texts_of(self.text, self.settings.num_tokens)
        for index, sampling in enumerate(self._settings()):
            uniform = np.random.default_rng(index).random((len(rows), max(map(len, rows))), np.float32)
            self.agreements.append(self.comparison.filled(rows, uniform, sampling))

    def _perplexity(self) -> None:
        """scorer.onnx on the test split against PyTorch in fp32: the same, or no more perplexity than allowed."""
        precision, nats = self.description["precision"], self._nats_per_token()
        expected = self.metrics[f"{self.reference.objective.metric_prefix}nats_per_token"]
        self.results["scorer_nats_per_token"] = nats
        if precision == "fp32":
            self.results["scorer_nats_difference"] = abs(nats - expected)
            if not abs(nats - expected) <= self.settings.nats_tolerance:
                raise VerificationError(
                    f"scorer.onnx gives {nats:.6f} nats a token and PyTorch {expected:.6f}: "
                    f"more than {self.settings.nats_tolerance:.0e} apart"
                )
            return
        increase = self.results["perplexity_increase"] = math.expm1(nats - expected)
        bound = getattr(self.settings.max_perplexity_increase, precision)
        if not increase <= bound:
            raise VerificationError(
                f"{precision} raises the perplexity by {increase:.2%}, and params.yaml allows {bound:.2%} "
                f"(verify.max_perplexity_increase.{precision})"
            )

    def _nats_per_token(self) -> float:
        scoring, terminal = self.scoring, sys.stderr.isatty()
        windows = split_windows(
            self.held_out.starts, scoring.window_tokens, scoring.context_tokens, self.comparison.cloze
        )
        with tqdm(
            total=windows.tokens,
            desc=f"verify {self.label} {self.description['precision']}",
            unit="token",
            unit_scale=True,
            mininterval=0.1 if terminal else 10,
            position=self.line if terminal else None,
        ) as bar:
            scorer = onnx_scorer(self.comparison.graphs, self.reference.objective)
            score = total(batches(self.held_out.ids, windows, scoring.batch_size), scorer, bar.update)
        return score.nats / score.tokens

    def summary(self) -> dict[str, Any]:
        """What metrics and bundle.json tell: whether all checks have passed, and what they found."""
        ties = [asdict(tie) for agreement in self.agreements for tie in agreement.near_ties]
        identical = [agreement.tokens - len(agreement.near_ties) for agreement in self.agreements]
        return {
            "precision": self.description["precision"],
            "verified": self.verified,
            "products": self.description["products"],
            **self.results,
            "prompts": len(self.prompts),
            "greedy_tokens_identical": identical[0],
            "sampled_tokens_identical": sum(identical[1:]),
            "sampling_settings": len(self.settings.sampling),
            "near_ties": len(ties),
            "near_ties_at": ties,
            "further_tokens": sum(agreement.tokens for agreement in self.further),
            "further_near_ties_at": [asdict(tie) for agreement in self.further for tie in agreement.near_ties],
            "chunked_calls_identical": None
            if self.comparison.cloze
            else all(self.chunked) and len(self.chunked) == len(self._settings()),
            "onnxruntime": onnxruntime.__version__,
            "torch": torch.__version__.split("+")[0],
        }
