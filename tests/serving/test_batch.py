"""Promises of continuous batching, without HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bundles import TinyBundles

from recurlm.runtime import Generator
from recurlm.runtime.sampling import Sampling
from recurlm.serving.batch import LARGEST_CHUNK, PIECE, Batch, Row, rows_are_independent

WORDS = ["king", "night", "naïve", "to be or not", "", "storm " * (PIECE + 30)]
REQUEST = st.tuples(
    st.sampled_from(WORDS),
    st.integers(1, 3 * LARGEST_CHUNK),
    st.fixed_dictionaries(
        {
            "temperature": st.sampled_from([0.0, 0.7, 1.5]),
            "top_k": st.sampled_from([0, 1, 40]),
            "top_p": st.sampled_from([1.0, 0.6]),
            "min_p": st.sampled_from([0.0, 0.05]),
            "repetition_penalty": st.sampled_from([1.0, 1.4]),
        }
    ),
    st.integers(0, 2**40),
    st.integers(0, 6),  # the step at which it joins
)


@pytest.mark.parametrize(
    ("variant", "precision", "independent"),
    [
        ("lstm", "fp32", True),
        ("gru", "fp32", True),
        ("rnn", "fp32", True),
        ("lstm", "int8", True),
        ("lstm", "int4", True),
    ],
)
def test_rows_that_join_and_leave_get_the_text_that_they_get_alone(
    bundles: TinyBundles, variant: str, precision: Any, independent: bool
) -> None:
    generator = Generator.from_bundle(bundles(variant, precision=precision))

    @settings(max_examples=10, deadline=None)
    @given(st.lists(REQUEST, min_size=1, max_size=9))
    def check(requests: list[tuple[str, int, dict[str, Any], int, int]]) -> None:
        batch = Batch(generator, independent)
        rows = [
            (Row(generator.prompt_ids(prompt), length, Sampling(**setting), seed), joins)
            for prompt, length, setting, seed, joins in requests
        ]
        tokens: dict[Row, list[int]] = {row: [] for row, _ in rows}
        step = 0
        while step <= 6 or batch.rows:
            batch.rows += [row for row, joins in rows if joins == step]
            for row, new in batch.step():
                tokens[row] += new
            step += 1
        for (prompt, length, setting, seed, _), (row, _) in zip(requests, rows, strict=True):
            decoder = generator.bundle.vocabulary.decoder(prompt, generator.prompt_ids(prompt)[-1])
            assert decoder.feed(tokens[row]) == generator.generate(prompt, length, seed=seed, **setting)
            assert len(tokens[row]) <= length

    check()


def test_rows_are_independent_tells_a_graph_whose_rows_are_not(bundles: TinyBundles) -> None:
    class Dependent(Generator):
        """What it computes for a row depends on how many there are."""

        def run(self, outputs: Any, feeds: dict[str, Any]) -> list[Any]:
            tokens, *states = super().run(outputs, feeds)
            return [tokens, *(state * (1 + 1e-7 * (len(state) > 4)) for state in states)]

    assert rows_are_independent(Generator.from_bundle(bundles("lstm")), 16)
    assert not rows_are_independent(Dependent.from_bundle(bundles("lstm")), 16)
    assert rows_are_independent(Dependent.from_bundle(bundles("lstm")), 4)
