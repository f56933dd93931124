"""Texts: what temperature does to them, and what a model that reads both sides is."""

from __future__ import annotations

import textwrap

from recurlm.report.lesson.cells import number, percent, rows, score
from recurlm.report.lesson.measured import Measured, Variant
from recurlm.report.wanted import best

SHOWN = 220  # characters of a text


def _writer(measured: Measured) -> Variant | None:
    """The causal model that predicts validation text best, if its texts were measured."""
    found = best(one.result for one in measured.causal if one.samples and one.samples["temperatures"])
    return measured.variants[found.name] if found else None


def temperatures(measured: Measured) -> str | None:
    """A row a temperature, and one of the text that the model was to go on as."""
    one = _writer(measured)
    if not one or not one.samples:
        return None
    heads = (f"{one.name}, temperature", "distinct words", "distinct pairs", "real words", "longest run copied")
    blocks = [(f"{row['temperature']:g}", row) for row in one.samples["temperatures"]]
    blocks.append(("the real text", one.samples["held_out_text"]))
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
            for name, row in blocks
        ],
    )


def excerpts(measured: Measured) -> str | None:
    """How the first text goes on at the lowest and at the highest temperature, from one prompt."""
    one = _writer(measured)
    if not one or not one.samples:
        return None
    found = sorted(one.samples["temperatures"], key=lambda row: row["temperature"])
    parts = [f"The {one.name}, given this prompt:", _indented(found[0]["texts"][0]["prompt"])]
    for row in (found[0], found[-1]) if len(found) > 1 else found:
        text = row["texts"][0]["text"]
        shown = text if len(text) <= SHOWN else text[:SHOWN].rsplit(" ", 1)[0] + " …"
        parts += [f"goes on at temperature {row['temperature']:g}:", _indented(shown)]
    return "\n" + "\n\n".join(parts) + "\n"


def _indented(text: str) -> str:
    """A block of code, whatever the text holds."""
    return textwrap.indent(text.strip("\n"), "    ").replace("<!--", "<! --")


def both_sides(measured: Measured) -> str | None:
    """The size of what each cloze model says, and its pseudo-perplexity."""
    found = [
        f"In the {one.name} each side says {one.lesson['output_size'] // 2:,} numbers a token, and both together "
        f"{one.lesson['output_size']:,}. Its pseudo-perplexity on the test plays is "
        f"{number(score(one, 'test', 'pseudo_perplexity_per_token'), '.1f')}."
        for one in measured.variants.values()
        if one.lesson and not one.result.causal
    ]
    return "\n".join(found) or None
