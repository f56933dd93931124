"""The sections of the report in reading order, independent of Markdown and HTML."""

from __future__ import annotations

from dataclasses import replace

from recurlm.config import Report
from recurlm.report import tables
from recurlm.report.heat_map import FILE as HEAT_MAP
from recurlm.report.heat_map import HeatMap
from recurlm.report.results import Result, Results
from recurlm.report.samples import Sample
from recurlm.report.section import Section
from recurlm.report.sections import learning, lesson, memory, perplexity, speed, temperatures

TITLE = "Recurrent language models, compared"


def lead(results: Results) -> str:
    """The line under the title: corpus and tokenizer."""
    corpus, tokens = results.corpus or {}, results.tokens or {}
    facts = [
        str(corpus.get("name") or "corpus not fetched yet"),
        f"licence {corpus['licence']}" if corpus.get("licence") else "",
        f"revision {corpus['revision']}" if corpus.get("revision") else "",
        f"{tokens['kind']} tokens, vocabulary {tokens['vocab_size']:,}" if tokens else "",
    ]
    return " · ".join(fact for fact in facts if fact)


def sections(results: Results, samples: tuple[Sample, ...], heat_map: HeatMap) -> tuple[Section, ...]:
    """All sections, in reading order."""
    cloze = {result.name for result in results.variants if result.objective.pseudo}
    return tuple(_mark_cloze(section, cloze) for section in _sections(results, samples, heat_map))


def _mark_cloze(section: Section, cloze: set[str]) -> Section:
    """The section with cloze models marked in the legends of its charts."""
    charts = (replace(each, cloze=tuple(name for name in each.variants if name in cloze)) for each in section.charts)
    return replace(section, charts=tuple(charts))


def _sections(results: Results, samples: tuple[Sample, ...], heat_map: HeatMap) -> tuple[Section, ...]:
    scores, verifications = "data/metrics/<variant>.json", "data/metrics/verification/<variant>.json"
    return (
        Section(
            "Comparison",
            ("Scores on the test split; the best of each column is bold. Click a column's head to sort by it.",),
            tables.comparison(results),
            gaps=_comparison_gaps(results),
            sources=(scores, verifications, "data/models/<variant>/model.json"),
        ),
        lesson.measured(results),
        learning.curves(results),
        perplexity.adaptive(results),
        perplexity.breakdown(results),
        memory.gradients(results),
        memory.context(results),
        memory.gates(results),
        learning.overfitting(results),
        speed.against_quality(results),
        speed.by_length(results),
        temperatures.side_by_side(results),
        _heat_map(heat_map),
        Section("Samples", (_sampling_note(results.params.report),), samples=samples, sources=("data/report/samples",)),
        Section(
            "Verification",
            (
                "onnxruntime against PyTorch on held-out text: equal logits, identical tokens, equal scores.",
                "int8 and int4 bundles against PyTorch with the same quantization; their perplexity against PyTorch in "
                "fp32.",
            ),
            tables.verifications(results),
            sources=(verifications, "data/timings/generate-<variant>.json"),
        ),
        Section(
            "Validation split",
            ("The split on which models and hyperparameters are selected.",),
            tables.validation(results),
            sources=(scores,),
        ),
        Section(
            "Corpus",
            (),
            tables.corpus(results),
            sources=("data/corpus/manifest.json", "data/tokens/manifest.json"),
        ),
        _timings(results),
        Section("How to read this", terms=TERMS),
    )


def _heat_map(heat_map: HeatMap) -> Section:
    return Section(
        "Token heat map",
        (
            f"Held-out text of the {heat_map.split} split, from token {heat_map.offset:,} of a document on, with the "
            "document's earlier tokens as context. Coloured by the surprisal of each token, −log₂ p in bits, or by the "
            "activation of one unit of the recurrent state after the token. Suggested units have a large spread and "
            "change slowly.",
            "Point at a token, or move with the arrow keys, for its values.",
        ),
        heat_map=heat_map,
        gaps=tuple(heat_map.problems),
        sources=(f"data/report/{HEAT_MAP}",),
    )


def _comparison_gaps(results: Results) -> tuple[str, ...]:
    return tuple(f"{result.name}: {', '.join(gaps)}" for result in results.variants if (gaps := _gaps(result)))


def _gaps(result: Result) -> list[str]:
    gaps = {
        "not trained yet": result.model,
        "not evaluated yet": result.metrics,
        "no bundle yet": result.bundle,
        "not verified yet": result.verification,
    }
    named = [gap for gap, output in gaps.items() if not output]
    if result.stale and result.made:
        named.append(f"stale, and left out of MLflow: {result.stale}")
    elif result.diagnosis.stale and result.diagnosis.files:
        named.append(f"its diagnostics are stale: {result.diagnosis.stale}")
    return named


def _sampling_note(report: Report) -> str:
    settings = [
        "greedy" if report.temperature == 0 else f"temperature {report.temperature:g}",
        f"top-k {report.top_k}" if report.top_k else "",
        f"top-p {report.top_p:g}" if report.top_p < 1 else "",
        f"seed {report.seed}",
    ]
    sampling = ", ".join(part for part in settings if part)
    tokens = report.max_new_tokens
    return f"Generated by onnxruntime from the bundle: {tokens} tokens, {sampling}. Cloze models fill blanks."


def _timings(results: Results) -> Section:
    table = tables.timings(results)
    missing = "None yet: this machine has no timings of these models."
    note = "Timings, which differ from machine to machine." if table else missing
    files = ("data/timings/train-<variant>.json", "data/timings/generate-<variant>.json")
    return Section("Measurements of this machine", (note,), table, sources=files)


TERMS = (
    (
        "bits per byte",
        "cross-entropy in bits per byte of UTF-8 text: lower is better, and comparable between tokenizers.",
    ),
    (
        "perplexity per token, per word",
        "exp of the mean loss per token, or of the summed loss over the number of white-space separated words. "
        "Comparable only for the same tokenizer and corpus.",
    ),
    (
        "left to right, cloze",
        "a left-to-right language model predicts each token from those before it, and generates text. A cloze model "
        "predicts each token from those on both sides, and fills masks: its pseudo-perplexity is that of an easier "
        "task, not comparable with perplexity.",
    ),
    (
        "state",
        "zero at the start of each document and carried through the document; every token of the split is scored once.",
    ),
    (
        "near ties",
        "positions at which the logits of two tokens differ by less than float error, so that either token is right.",
    ),
)
