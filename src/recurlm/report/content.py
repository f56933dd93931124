"""What a report says, section by section, apart from how a page draws it."""

from __future__ import annotations

from dataclasses import replace

from recurlm.config import Report
from recurlm.report import tables
from recurlm.report.coloured import FILE as COLOURED
from recurlm.report.coloured import Coloured
from recurlm.report.results import Result, Results
from recurlm.report.samples import Sample
from recurlm.report.section import Section
from recurlm.report.sections import learning, lesson, memory, perplexity, speed, temperatures

TITLE = "Recurrent language models, compared"


def lead(results: Results) -> str:
    """The line under the title: which text, in which tokens."""
    corpus, tokens = results.corpus or {}, results.tokens or {}
    facts = [
        str(corpus.get("name") or "corpus not fetched yet"),
        f"licence {corpus['licence']}" if corpus.get("licence") else "",
        f"revision {corpus['revision']}" if corpus.get("revision") else "",
        f"{tokens['kind']} tokens, vocabulary {tokens['vocab_size']:,}" if tokens else "",
    ]
    return " · ".join(fact for fact in facts if fact)


def sections(results: Results, samples: tuple[Sample, ...], coloured: Coloured) -> tuple[Section, ...]:
    """The whole report, in reading order."""
    cloze = {result.name for result in results.variants if not result.causal}
    return tuple(_marked(section, cloze) for section in _sections(results, samples, coloured))


def _marked(section: Section, cloze: set[str]) -> Section:
    """The section with legends that tell cloze models from the others."""
    charts = (replace(one, cloze=tuple(name for name in one.variants if name in cloze)) for one in section.charts)
    return replace(section, charts=tuple(charts))


def _sections(results: Results, samples: tuple[Sample, ...], coloured: Coloured) -> tuple[Section, ...]:
    scores, proofs = "data/metrics/<variant>.json", "data/metrics/proof/<variant>.json"
    return (
        Section(
            "Comparison",
            ("Scores on the test split; the best of each column is bold. A click on a column's head sorts by it.",),
            tables.comparison(results),
            gaps=_comparison_gaps(results),
            sources=(scores, proofs, "data/models/<variant>/model.json"),
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
        _coloured(coloured),
        Section("Samples", (_sampling_note(results.params.report),), samples=samples, sources=("data/report/samples",)),
        Section(
            "Proof",
            (
                "onnxruntime against PyTorch on held-out text: the same logits, the same tokens, the same scores.",
                "In int8 and int4, against PyTorch that rounds likewise; their perplexity against PyTorch in fp32.",
            ),
            tables.proofs(results),
            sources=(proofs, "data/timings/generate-<variant>.json"),
        ),
        Section("Validation split", ("What choices are made on.",), tables.validation(results), sources=(scores,)),
        Section(
            "Corpus",
            (),
            tables.corpus(results),
            sources=("data/corpus/manifest.json", "data/tokens/manifest.json"),
        ),
        _timings(results),
        Section("How to read this", terms=TERMS),
    )


def _coloured(coloured: Coloured) -> Section:
    start = f"{coloured.first:,}"
    return Section(
        "A text, coloured",
        (
            f"Held-out text of the {coloured.split} split, from token {start} of a document on, read from its start. "
            "Coloured by the model's surprise at each token, in bits, or by what one hidden unit held right after it. "
            "Suggested units swing far and change slowly.",
            "Point at a token, or go through them with the arrow keys, for its numbers.",
        ),
        coloured=coloured,
        gaps=tuple(coloured.problems),
        sources=(f"data/report/{COLOURED}",),
    )


def _comparison_gaps(results: Results) -> tuple[str, ...]:
    return tuple(f"{result.name}: {', '.join(gaps)}" for result in results.variants if (gaps := _gaps(result)))


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
    files = ("data/timings/train-<variant>.json", "data/timings/generate-<variant>.json")
    return Section("Measurements of this machine", (note,), table, sources=files)


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
