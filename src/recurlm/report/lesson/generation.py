"""Generated text by temperature, and the output size of bidirectional models."""

from __future__ import annotations

import textwrap

from recurlm.report.lesson.cells import number, percent, rows, score
from recurlm.report.lesson.measured import Measured, Variant
from recurlm.report.sync_plan import best

SHOWN = 220  # characters of a text


def _best_generator(measured: Measured) -> Variant | None:
    """The variant with the fewest validation bits per byte of those with samples."""
    result = best(each.result for each in measured.left_to_right if each.samples and each.samples["temperatures"])
    return measured.variants[result.name] if result else None


def temperatures(measured: Measured) -> str | None:
    """One row per temperature, and one of the held-out text."""
    variant = _best_generator(measured)
    if not variant or not variant.samples:
        return None
    heads = (f"{variant.name}, temperature", "distinct words", "distinct pairs", "real words", "longest run copied")
    measures = [(f"{row['temperature']:g}", row) for row in variant.samples["temperatures"]]
    measures.append(("held-out text", variant.samples["held_out_text"]))
    return rows(
        heads,
        [
            (
                name,
                percent(row["distinct_1"]),
                percent(row["distinct_2"]),
                percent(row["real_word_fraction"]),
                f"{row['longest_copied_words']} words",
            )
            for name, row in measures
        ],
    )


def excerpts(measured: Measured) -> str | None:
    """The first sample at the lowest and at the highest temperature, from one prompt."""
    variant = _best_generator(measured)
    if not variant or not variant.samples:
        return None
    rows = sorted(variant.samples["temperatures"], key=lambda row: row["temperature"])
    parts = [f"The {variant.name}, given this prompt:", _indented(rows[0]["texts"][0]["prompt"])]
    for row in (rows[0], rows[-1]) if len(rows) > 1 else rows:
        text = row["texts"][0]["text"]
        shown = text if len(text) <= SHOWN else text[:SHOWN].rsplit(" ", 1)[0] + " …"
        parts += [f"generates at temperature {row['temperature']:g}:", _indented(shown)]
    return "\n" + "\n\n".join(parts) + "\n"


def _indented(text: str) -> str:
    """The text as an indented code block."""
    return textwrap.indent(text.strip("\n"), "    ").replace("<!--", "<! --")


def bidirectional(measured: Measured) -> str | None:
    """The output size of each cloze model, and its pseudo-perplexity."""
    sentences = [
        f"In the {variant.name} each direction has {variant.lesson['output_size'] // 2:,} outputs per token, both "
        f"together {variant.lesson['output_size']:,}. Its pseudo-perplexity on the test plays is "
        f"{number(score(variant, 'test', 'pseudo_perplexity_per_token'), '.1f')}."
        for variant in measured.variants.values()
        if variant.lesson and variant.result.objective.pseudo
    ]
    return "\n".join(sentences) or None
