"""What a report says, section by section, apart from how a page draws it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recurlm.config import Report
from recurlm.report import tables
from recurlm.report.results import Result, Results
from recurlm.report.samples import Sample
from recurlm.report.tables import Table

TITLE = "Recurrent language models, compared"


@dataclass(frozen=True)
class Section:
    title: str
    notes: tuple[str, ...] = ()
    table: Table | None = None
    charts: tuple[tuple[str, str, str], ...] = ()  # file name, caption, SVG
    samples: tuple[Sample, ...] = ()
    terms: tuple[tuple[str, str], ...] = ()


def lead(results: Results) -> str:
    """The line under the title: which text, in which tokens."""
    corpus, tokens = results.corpus or {}, results.tokens or {}
    facts = [
        str(corpus.get("name") or "corpus not fetched yet"),
        f"licence {corpus['licence']}" if corpus.get("licence") else "",
        f"revision {corpus['revision']}" if corpus.get("revision") else "",
        f"{tokens['kind']} tokens, vocabulary {tokens['vocabulary_size']:,}" if tokens else "",
    ]
    return " · ".join(fact for fact in facts if fact)


def sections(results: Results, charts: Mapping[str, str], samples: tuple[Sample, ...]) -> tuple[Section, ...]:
    """The whole report, in reading order."""
    captions = {"curves.svg": "Left to right", "curves-cloze.svg": "Cloze, on a scale of its own"}
    return (
        Section("Comparison", _comparison_notes(results), tables.comparison(results)),
        Section(
            "Learning curves",
            () if charts else ("No variant has been trained yet.",),
            charts=tuple((file, captions[file], svg) for file, svg in charts.items()),
        ),
        Section("Samples", (_sampling_note(results.params.report),), samples=samples),
        Section(
            "Proof",
            (
                "onnxruntime against PyTorch on held-out text: the same logits, the same tokens, the same scores.",
                "In int8 and int4, against PyTorch that rounds likewise; their perplexity against PyTorch in fp32.",
            ),
            tables.proofs(results),
        ),
        Section("Validation split", ("What choices are made on.",), tables.validation(results)),
        Section("Corpus", (), tables.corpus(results)),
        _timings(results),
        Section("How to read this", terms=TERMS),
    )


def _comparison_notes(results: Results) -> tuple[str, ...]:
    missing = [f"{result.name}: {', '.join(gaps)}" for result in results.variants if (gaps := _gaps(result))]
    return ("Scores on the test split; the best of each column is bold.", *missing)


def _gaps(result: Result) -> list[str]:
    gaps = {
        "not trained yet": result.model,
        "not evaluated yet": result.metrics,
        "no bundle yet": result.bundle,
        "not proven yet": result.proof,
    }
    return [gap for gap, found in gaps.items() if not found]


def _sampling_note(report: Report) -> str:
    how = [
        "greedy" if report.temperature == 0 else f"temperature {report.temperature:g}",
        f"top-k {report.top_k}" if report.top_k else "",
        f"top-p {report.top_p:g}" if report.top_p < 1 else "",
        f"seed {report.seed}",
    ]
    drawn = ", ".join(part for part in how if part)
    return f"Written by onnxruntime from the bundle alone: {report.tokens} tokens, {drawn}. Cloze models fill blanks."


def _timings(results: Results) -> Section:
    table = tables.timings(results)
    nothing = "None yet: this machine has trained and run none of these very models."
    note = "Speeds are measurements, not results: another machine has others." if table else nothing
    return Section("Measurements of this machine", (note,), table)


TERMS = (
    (
        "bits per byte",
        "how many bits the model needs for one byte of UTF-8 text: less is better, and comparable between tokenizers.",
    ),
    (
        "perplexity per token, per word",
        "exp of the mean loss per token, or of the summed loss over the number of white-space separated words. "
        "Only numbers of the same tokenizer and corpus compare.",
    ),
    (
        "left to right, cloze",
        "a left-to-right model predicts each token from those before it, and can write. A cloze model predicts it from "
        "all the others, and fills blanks: its pseudo-numbers answer an easier question, and do not compare.",
    ),
    (
        "state",
        "zero at the start of each document and carried through all of it; every token of the split is scored once.",
    ),
    (
        "near ties",
        "places in which two tokens are closer than float error, so that either choice is right; counted, not hidden.",
    ),
)
