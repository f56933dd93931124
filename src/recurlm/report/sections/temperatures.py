"""Texts at several temperatures, side by side, with their measures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from recurlm.report.charts import texts
from recurlm.report.found import Row, gather
from recurlm.report.results import Numbers, Result, Results
from recurlm.report.section import Section, Temperature
from recurlm.report.tables import Column, count, decimals, percent, rows_of

PLOTTED = (
    ("distinct_2", "Distinct 2-grams, share", ".0%"),
    ("real_word_fraction", "Words that train has, share", ".0%"),
    ("mean_longest_copied_words", "Longest run copied from train, mean words", ".1f"),
)


def side_by_side(results: Results) -> Section:
    found, shown = gather(results, "samples", _measures), gather(results, "samples", _texts)
    columns = (
        Column("distinct 1-grams", lambda row: row.get("distinct_1"), decimals(3)),
        Column("distinct 2-grams", lambda row: row.get("distinct_2"), decimals(3)),
        Column("distinct 3-grams", lambda row: row.get("distinct_3"), decimals(3)),
        Column("repeated n-grams", lambda row: row.get("repeated"), percent),
        Column("words that train has", lambda row: row.get("real_word_fraction"), percent),
        Column("longest copied run, words", lambda row: row.get("longest_copied_words"), count),
        Column("mean of the longest runs", lambda row: row.get("mean_longest_copied_words"), decimals(1)),
        Column("fills as in the text", lambda row: row.get("fill_accuracy"), percent),
    )
    causal = [row for row in found.rows if row["causal"]]
    return Section(
        "Temperature",
        (
            "The same prompts and the same random numbers at each temperature: a low one repeats itself and sounds "
            "safe, a high one invents words. The dotted line is held-out text by people.",
            "Copied runs are looked for in the whole train split. A cloze model writes nothing of its own: it fills "
            "hidden tokens of held-out text, the underlined ones.",
        ),
        charts=texts.by_temperature(causal, list(results.params.variants), PLOTTED),
        tables=(("Measures", rows_of("variant, temperature", [(_label(row), row) for row in found.rows], columns)),)
        if found.rows
        else (),
        temperatures=tuple(
            (name, tuple(row["text"] for row in shown.rows if row["variant"] == name))
            for name in dict.fromkeys(row["variant"] for row in shown.rows)
        ),
        gaps=found.gaps,
        sources=("data/metrics/samples/<variant>.json",),
    )


def _label(row: Row) -> str:
    return f"{row['variant']}, {'held-out text' if row['temperature'] is None else row['temperature']}"


def _measures(_: Result, found: Numbers) -> Iterable[Row]:
    rows = [*found["temperatures"], {"temperature": None, **found["held_out_text"]}]
    for row in rows if found["temperatures"] else ():
        repeated = next((value for key, value in row.items() if key.startswith("repeated_")), None)
        yield {key: value for key, value in row.items() if key != "texts"} | {"repeated": repeated}


def _texts(result: Result, found: Numbers) -> Iterable[Row]:
    for row in found["temperatures"]:
        read = _stretches if result.causal else _filled
        yield {"text": Temperature(float(row["temperature"]), _facts(row), tuple(map(read, row["texts"])))}


def _stretches(text: Numbers) -> tuple[tuple[str, bool], ...]:
    return ((str(text["prompt"]), False), (str(text["text"]), True))


def _filled(text: Numbers) -> tuple[tuple[str, bool], ...]:
    return tuple((str(part["text"]), bool(part["filled"])) for part in text["parts"])


def _facts(row: Numbers) -> tuple[tuple[str, str], ...]:
    wanted: Sequence[tuple[str, str]] = (
        ("distinct_2", "distinct 2-grams"),
        ("real_word_fraction", "words that train has"),
        ("longest_copied_words", "longest copied run"),
        ("fill_accuracy", "fills as in the text"),
    )
    facts = []
    for key, name in wanted:
        if row.get(key) is not None:
            facts.append((name, f"{row[key]} words" if key == "longest_copied_words" else f"{row[key]:.0%}"))
    return tuple(facts)
