"""Generated text at several temperatures, side by side, with its measures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from recurlm.report.charts import texts
from recurlm.report.frames import Row, read_frame
from recurlm.report.objectives import find
from recurlm.report.results import JsonObject, Result, Results
from recurlm.report.section import Section, Temperature
from recurlm.report.tables import Column, count, decimals, percent, rows_of

PLOTTED = (
    ("distinct_2", "Distinct 2-grams, fraction", ".0%"),
    ("real_word_fraction", "Words in the train vocabulary, fraction", ".0%"),
    ("mean_longest_copied_words", "Longest n-gram copied from train, mean words", ".1f"),
)


def side_by_side(results: Results) -> Section:
    measures = read_frame(results, "samples", _measures)
    texts_of = read_frame(results, "samples", _texts)
    columns = (
        Column("distinct 1-grams", lambda row: row.get("distinct_1"), decimals(3)),
        Column("distinct 2-grams", lambda row: row.get("distinct_2"), decimals(3)),
        Column("distinct 3-grams", lambda row: row.get("distinct_3"), decimals(3)),
        Column("repeated n-grams", lambda row: row.get("repeated"), percent),
        Column("words in the train vocabulary", lambda row: row.get("real_word_fraction"), percent),
        Column("longest copied n-gram, words", lambda row: row.get("longest_copied_words"), count),
        Column("mean longest copied n-gram", lambda row: row.get("mean_longest_copied_words"), decimals(1)),
        Column("fill accuracy", lambda row: row.get("fill_accuracy"), percent),
    )
    generated = [row for row in measures.rows if not find(row["objective"]).pseudo]
    return Section(
        "Temperature",
        (
            "The same prompts and the same random numbers at each temperature: at a low one the text repeats itself, "
            "at a high one it contains made-up words. The dotted line is held-out text.",
            "Copied n-grams are searched in the whole train split. A cloze model fills masked tokens of held-out text, "
            "which are underlined.",
        ),
        charts=texts.by_temperature(generated, list(results.params.variants), PLOTTED),
        tables=(("Measures", rows_of("variant, temperature", [(_label(row), row) for row in measures.rows], columns)),)
        if measures.rows
        else (),
        temperatures=tuple(
            (name, tuple(row["text"] for row in texts_of.rows if row["variant"] == name))
            for name in dict.fromkeys(row["variant"] for row in texts_of.rows)
        ),
        gaps=measures.gaps,
        sources=("data/metrics/samples/<variant>.json",),
    )


def _label(row: Row) -> str:
    return f"{row['variant']}, {'held-out text' if row['temperature'] is None else row['temperature']}"


def _measures(_: Result, samples: JsonObject) -> Iterable[Row]:
    rows = [*samples["temperatures"], {"temperature": None, **samples["held_out_text"]}]
    for row in rows if samples["temperatures"] else ():
        repeated = next((value for key, value in row.items() if key.startswith("repeated_")), None)
        yield {key: value for key, value in row.items() if key != "texts"} | {"repeated": repeated}


def _texts(_: Result, samples: JsonObject) -> Iterable[Row]:
    for row in samples["temperatures"]:
        yield {"text": Temperature(float(row["temperature"]), _facts(row), tuple(map(_spans, row["texts"])))}


def _spans(text: JsonObject) -> tuple[tuple[str, bool], ...]:
    """(text, whether the model generated it) of a continued prompt, or of a text with filled masks."""
    if "parts" in text:
        return tuple((str(part["text"]), bool(part["filled"])) for part in text["parts"])
    return ((str(text["prompt"]), False), (str(text["text"]), True))


def _facts(row: JsonObject) -> tuple[tuple[str, str], ...]:
    shown: Sequence[tuple[str, str]] = (
        ("distinct_2", "distinct 2-grams"),
        ("real_word_fraction", "words in the train vocabulary"),
        ("longest_copied_words", "longest copied n-gram"),
        ("fill_accuracy", "fill accuracy"),
    )
    facts = []
    for key, name in shown:
        if row.get(key) is not None:
            facts.append((name, f"{row[key]} words" if key == "longest_copied_words" else f"{row[key]:.0%}"))
    return tuple(facts)
