"""Promises of continuous batching, without HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix_states import with_matrix_states
from tiny_bundles import TinyBundles

from recurlm.runtime import Generator, GraphSession
from recurlm.runtime.sampling import Sampling
from recurlm.runtime.session import State
from recurlm.serving.completions import Logprobs
from recurlm.serving.scheduler import MAX_CHUNK, PREFILL_TOKENS, Scheduler, Sequence, Share, rows_are_independent

WORDS = ["king", "night", "naïve", "to be or not", "", "storm " * (PREFILL_TOKENS + 30)]
REQUEST = st.tuples(
    st.sampled_from(WORDS),
    st.integers(1, 3 * MAX_CHUNK),
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
def test_sequences_that_join_and_leave_get_the_text_that_they_get_alone(
    bundles: TinyBundles, variant: str, precision: Any, independent: bool
) -> None:
    generator = Generator.from_bundle(bundles(variant, precision=precision))

    @settings(max_examples=10, deadline=None)
    @given(st.lists(REQUEST, min_size=1, max_size=9))
    def check(requests: list[tuple[str, int, dict[str, Any], int, int]]) -> None:
        scheduler = Scheduler(generator, independent)
        sequences = [
            (Sequence(generator.prompt_ids(prompt), length, Sampling(**setting), seed), joins)
            for prompt, length, setting, seed, joins in requests
        ]
        tokens: dict[Sequence, list[int]] = {sequence: [] for sequence, _ in sequences}
        step = 0
        while step <= 6 or scheduler.sequences:
            scheduler.sequences += [sequence for sequence, joins in sequences if joins == step]
            for sequence, new in scheduler.step():
                tokens[sequence] += new
            step += 1
        for (prompt, length, setting, seed, _), (sequence, _) in zip(requests, sequences, strict=True):
            decoder = generator.bundle.vocabulary.decoder(prompt, generator.prompt_ids(prompt)[-1])
            assert decoder.feed(tokens[sequence]) == generator.generate(prompt, length, seed=seed, **setting)
            assert len(tokens[sequence]) <= length

    check()


@pytest.mark.parametrize("independent", [True, False])
@pytest.mark.parametrize(("prompt", "small"), [("", 48), ("to be or not", 48), ("", 80)])
def test_small_requests_without_end_keep_no_other_waiting(
    bundles: TinyBundles, prompt: str, small: int, independent: bool
) -> None:
    """Those with no prompt to read leave it to none to read its own; more than a batch holds leave no row to others."""
    generator = Generator.from_bundle(bundles("lstm"))
    scheduler, sampling, calls = Scheduler(generator, independent), Sampling(0.8, 40, 0.95), 0
    large = Sequence(generator.prompt_ids("storm " * PREFILL_TOKENS), 40, sampling, 1)
    scheduler.sequences = [large]
    while not large.finished:
        missing = small - sum(sequence.share.small for sequence in scheduler.sequences)
        scheduler.sequences += [
            Sequence(generator.prompt_ids(prompt), 2 + calls % 7, sampling, None, Share(small=True))
            for _ in range(missing)
        ]
        scheduler.step()
        calls += 1
        assert calls < 150


def test_rows_are_independent_tells_a_graph_whose_rows_are_not(bundles: TinyBundles) -> None:
    class Dependent:
        """A session whose states depend on the batch size."""

        def __init__(self, session: GraphSession) -> None:
            self.session = session

        def run(self, *arguments: Any) -> tuple[dict[str, Any], State]:
            results, state = self.session.run(*arguments)
            return results, {name: values * (1 + 1e-7 * (len(values) > 4)) for name, values in state.items()}

    generator = Generator.from_bundle(bundles("lstm"))
    assert rows_are_independent(generator, 16)
    generator.session = Dependent(generator.session)  # type: ignore[assignment]
    assert not rows_are_independent(generator, 16)
    assert rows_are_independent(generator, 4)


def test_states_of_any_rank_are_scheduled_and_scored(bundles: TinyBundles, tmp_path: Path) -> None:
    generator = Generator.from_bundle(with_matrix_states(bundles("lstm"), tmp_path / "lstm"))
    assert rows_are_independent(generator, 4)
    scheduler = Scheduler(generator, True)
    prompts = ["king", "the sea " * PREFILL_TOKENS, ""]
    sampling = Sampling(0.8, 40, 0.95, repetition_penalty=1.2)
    sequences = [Sequence(generator.prompt_ids(prompt), 50, sampling, seed) for seed, prompt in enumerate(prompts)]
    tokens: dict[Sequence, list[int]] = {sequence: [] for sequence in sequences}
    scheduler.sequences = sequences[:]
    while scheduler.sequences:
        for sequence, new in scheduler.step():
            tokens[sequence] += new
    for seed, (prompt, sequence) in enumerate(zip(prompts, sequences, strict=True)):
        decoder = generator.bundle.vocabulary.decoder(prompt, generator.prompt_ids(prompt)[-1])
        alone = Generator.from_bundle(bundles("lstm")).generate(prompt, 50, seed=seed, repetition_penalty=1.2)
        assert decoder.feed(tokens[sequence]) == alone
    ids = generator.prompt_ids("the king or the sea")
    logprobs = Logprobs(generator.bundle.session("step.onnx", {"token"}, None), 2)
    nats = generator.score("the king or the sea").nats
    assert -sum(token.log_prob for token in logprobs.read(ids)) == pytest.approx(nats, rel=1e-5)
