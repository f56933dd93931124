"""The tables of README.md, docs/results.md and docs/diagnostics.md: scores, intervals and verifications."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recurlm.report.lesson.cells import number, rows, score
from recurlm.report.lesson.measured import Measured, Variant
from recurlm.report.tables import NONE
from recurlm.storage import read_json

SHAPE = ("variant", "layers × hidden", "parameters")
SCORES = ("bits per byte", "perplexity per token", "pseudo-bits per byte", "pseudo-perplexity per token")


def _shape(variant: Variant) -> tuple[str, ...]:
    directions = "2 × " if variant.result.objective.pseudo else ""
    lesson, config = variant.lesson, variant.result.model_config
    layers, hidden = (lesson.get(key, config[key]) for key in ("layers", "hidden_size"))
    return variant.name, f"{directions}{layers} × {hidden}", number(variant.result.parameters)


def _scores(variant: Variant) -> tuple[str, ...]:
    metric = variant.result.objective.metric
    cells = (
        number(score(variant, "test", metric("bits_per_byte")), ".3f"),
        number(score(variant, "test", metric("perplexity_per_token")), ".1f"),
    )
    return (NONE, NONE, *cells) if variant.result.objective.pseudo else (*cells, NONE, NONE)


def _scored(measured: Measured) -> list[Variant]:
    return [variant for variant in measured.variants.values() if variant.result.metrics]


def identical(verification: dict[str, Any] | None) -> str:
    """How many of the generated tokens are those of PyTorch."""
    counts = [(verification or {}).get(f"{kind}_tokens_identical") for kind in ("greedy", "sampled")]
    return NONE if None in counts else number(sum(filter(None, counts)))


def overview(measured: Measured) -> str | None:
    """README's table."""
    heads = (*SHAPE, *SCORES, "effective context, tokens", "ONNX = PyTorch, of 5,000 tokens")
    cells = [
        (
            *_shape(variant),
            *_scores(variant),
            number(variant.lesson.get("effective_context_tokens")),
            identical(variant.result.verification),
        )
        for variant in _scored(measured)
    ]
    return rows(heads, cells)


def results(measured: Measured) -> str | None:
    """The same scores, with the speeds of the run that benchmarks/results/repro.json is of."""
    path = measured.metrics.parents[1] / "benchmarks/results/repro.json"
    speeds = read_json(path)["variants"] if path.is_file() else {}
    heads = (*SHAPE, *SCORES, "training, tokens/s", "ONNX in fp32, tokens/s")
    keys = ("training_tokens_per_second", "onnx_fp32_tokens_per_second")
    cells = [
        (
            *_shape(variant),
            *_scores(variant),
            *(number(speeds.get(variant.name, {}).get(key), ",") for key in keys),
        )
        for variant in _scored(measured)
    ]
    return rows(heads, cells)


def _interval(variant: Variant, over: str) -> str:
    static = (variant.perplexity or {}).get("static") or {}
    bounds = (static.get(f"intervals_over_{over}") or {}).get(variant.result.objective.metric("perplexity_per_token"))
    return f"{number(bounds[0], '.1f')} to {number(bounds[1], '.1f')}" if bounds else NONE


def intervals(measured: Measured) -> str | None:
    """The bootstrap intervals of the perplexity, of each variant."""
    cells = [
        (variant.name, _interval(variant, "windows"), _interval(variant, "documents")) for variant in _scored(measured)
    ]
    return rows(("variant", "over windows", "over documents"), cells)


def interval_sentence(measured: Measured) -> str | None:
    """The intervals over windows of the left-to-right variants, in a sentence."""
    named = [f"{_interval(variant, 'windows')} ({variant.name})" for variant in measured.left_to_right]
    named = [each for each in named if NONE not in each]
    if not named:
        return None
    listed = " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)
    return f"The 95 % bootstrap intervals of the perplexity over windows are {listed}."


def precisions(measured: Measured) -> str | None:
    """Size, perplexity increase and identical tokens of each precision; the sizes are those of repro.json."""
    path = measured.metrics.parents[1] / "benchmarks/results/repro.json"
    sizes = read_json(path)["variants"] if path.is_file() else {}
    small = ("int8", "int4")
    heads = (
        "variant",
        "fp32",
        *small,
        *(f"perplexity, {name}" for name in small),
        *(f"tokens, {name}" for name in small),
    )
    cells = []
    for variant in _scored(measured):
        found = {bundle.precision: bundle.verification or {} for bundle in variant.result.bundles}
        files = sizes.get(variant.name, {}).get("generating_file_bytes", {})
        increases = (found.get(name, {}).get("perplexity_increase") for name in small)
        cells.append(
            (
                variant.name,
                *(f"{files[name] / 1e6:.1f} MB" if name in files else NONE for name in ("fp32", *small)),
                *(NONE if each is None else f"{number(100 * each, '+.2f')} %" for each in increases),
                *(identical(found.get(name)) for name in small),
            )
        )
    return rows(heads, cells)


def diagnostics(measured: Measured) -> str | None:
    """A row a measure, a column a left-to-right variant."""
    variants = [each for each in measured.left_to_right if each.perplexity and each.diagnostics]
    if not variants:
        return None
    first = variants[0].perplexity or {}
    window, dynamic = first["cold_windows"]["window_tokens"], first["dynamic_evaluation"]["tokens"]

    def perplexity(variant: Variant, *keys: str) -> str:
        block: Any = variant.perplexity
        for key in keys:
            block = block[key]
        return number(block["perplexity_per_token"], ".1f")

    def adapted(variant: Variant) -> str:
        static = perplexity(variant, "dynamic_evaluation", "static_on_the_same_tokens")
        return f"{perplexity(variant, 'dynamic_evaluation')} ({static})"

    def vanished(variant: Variant) -> str:
        flow = (variant.diagnostics or {})["gradients"]
        return " → ".join(number(flow[f"{when}_training"]["vanished_at"]) for when in ("before", "after"))

    measures: dict[str, Callable[[Variant], str]] = {
        "static, streamed": lambda variant: perplexity(variant, "static"),
        f"static, windows of {window} from a zero state": lambda variant: perplexity(variant, "cold_windows"),
        "with a neural cache": lambda variant: perplexity(variant, "neural_cache"),
        f"with dynamic evaluation, on {dynamic:,} tokens (static on the same)": adapted,
        "effective context, tokens": lambda variant: number(variant.lesson["effective_context_tokens"]),
        "tokens back at which the state's gradient is below 1 %, before → after training": vanished,
        "gates": lambda variant: number((variant.diagnostics or {})["gates"]["gates_in_a_cell"]),
    }
    heads = ("perplexity per token, test", *(variant.name for variant in variants))
    return rows(heads, [(name, *(value(variant) for variant in variants)) for name, value in measures.items()])
