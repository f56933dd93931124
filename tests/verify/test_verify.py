"""Promises of a verification: what is equal passes with its figures, and what differs is never let through."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from configs import PARAMS, model_config

from recurlm.config import Evaluate, ModelConfig, Sampling, override
from recurlm.evaluation.perplexity import describe, score
from recurlm.export.bundle import write_bundle, write_graphs
from recurlm.model import LanguageModel, build, save
from recurlm.objective import objective_of
from recurlm.storage import read_json, sha256_of, write_json
from recurlm.tokens.files import TokenFile
from recurlm.verify.agreement import Verification, reference_of, verify
from recurlm.verify.bundles import verify_all
from recurlm.verify.checks import (
    GREEDY,
    Agreement,
    Comparison,
    NearTie,
    VerificationError,
    few_near_ties,
)
from recurlm.verify.edges import BesideEdges
from recurlm.verify.reference import Reference
from recurlm.verify.sessions import Graphs

VOCABULARY = 23
SCORING = Evaluate(batch_size=3, window_tokens=40, context_tokens=10)
VERIFY = override(
    PARAMS.verify,
    {
        "num_tokens": 60,
        "sampling": [{"temperature": 0.8, "top_k": 5, "top_p": 1.0}, {"temperature": 1.0, "top_k": 0, "top_p": 0.9}],
    },
)
MANIFEST = {
    "special": {"bos": 0, "mask": 1, "unk": None, "eol": None},
    "tokenizer_sha256": "0" * 64,
    "kind": "char",
    "corpus": {},
}


def held_out() -> TokenFile:
    ids = np.random.default_rng(0).integers(2, VOCABULARY, 300).astype(np.uint16)
    starts = np.array([0, 170, 300])
    ids[starts[:-1]] = 0
    counts = {"tokens": 298, "words": 60, "bytes": 298, "characters": 298, "out_of_vocabulary_words": 0}
    return TokenFile(ids, starts, counts, MANIFEST)


def random_model(name: str) -> LanguageModel:
    torch.manual_seed(2)
    return build(name, config_of(name), VOCABULARY).eval().requires_grad_(False)


def config_of(name: str) -> ModelConfig:
    return model_config(name, embedding_size=7, hidden_size=8)


def metrics_of(model: LanguageModel, tokens: TokenFile) -> dict:
    nats = score(model, tokens.ids, tokens.starts, SCORING.window_tokens, SCORING.context_tokens, SCORING.batch_size)
    return describe(nats, tokens.counts, objective_of(model).metric_prefix)


@pytest.fixture(scope="module", params=["lstm", "bilstm"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, Path]:
    model, folder = random_model(request.param), tmp_path_factory.mktemp(request.param)
    write_graphs(folder, request.param, model, MANIFEST, PARAMS.export)
    return model, folder


def test_equal_models_pass_and_the_verification_states_its_figures(exported: tuple[LanguageModel, Path]) -> None:
    model, folder = exported
    results = verify("v", model, folder, held_out(), metrics_of(model, held_out()), VERIFY, SCORING)
    assert results["verified"] is True
    assert 0 < results["largest_logit_difference"] < 1e-4
    compared = results["greedy_tokens_identical"] + results["sampled_tokens_identical"] + results["near_ties"]
    assert compared >= 3 * 60
    assert len(results["near_ties_at"]) == results["near_ties"]
    assert results["scorer_nats_difference"] < 1e-5
    assert results["chunked_calls_identical"] is (None if objective_of(model).both_sides else True)


def test_what_only_some_checks_have_seen_is_not_verified(exported: tuple[LanguageModel, Path]) -> None:
    model, folder = exported
    reference, metrics = reference_of(model, folder, MANIFEST), metrics_of(model, held_out())
    verification = Verification(reference, folder, held_out(), metrics, VERIFY, SCORING, error=1e-4)
    verification.run({"generator", "filler"})
    assert verification.summary()["verified"] is False


def test_another_model_fails_the_verification(exported: tuple[LanguageModel, Path]) -> None:
    model, folder = exported
    other = random_model("bilstm" if objective_of(model).both_sides else "lstm")
    other.decoder.bias[5] += 0.01
    with pytest.raises(VerificationError, match="differs from PyTorch's"):
        verify("v", other, folder, held_out(), metrics_of(model, held_out()), VERIFY, SCORING)


def test_another_perplexity_fails_the_verification(exported: tuple[LanguageModel, Path]) -> None:
    model, folder = exported
    metrics = metrics_of(model, held_out())
    metrics = {name: value + 1e-3 if "nats" in name else value for name, value in metrics.items()}
    with pytest.raises(VerificationError, match="nats a token"):
        verify("v", model, folder, held_out(), metrics, VERIFY, SCORING)


def test_logits_are_compared_with_a_carried_state_that_is_not_zero(exported: tuple[LanguageModel, Path]) -> None:
    """A graph that forgot its state would pass from zero states only."""
    model, folder = exported
    other = random_model("bilstm" if objective_of(model).both_sides else "lstm")
    for name, parameter in other.recurrence.named_parameters():
        if "weight_hh" in name:
            parameter.mul_(1.05)
    with pytest.raises(VerificationError):
        Comparison(Reference(other, [1]), Graphs(folder)).logits(np.arange(256) % VOCABULARY)


def test_a_near_tie_is_one_and_a_clear_difference_is_none() -> None:
    reference = Reference(random_model("lstm"), [])
    logits = torch.zeros(VOCABULARY)
    logits[4], logits[9], logits[2] = 1.0, 1.0 - 1e-6, 0.5
    assert reference.near_tie(logits, 0.0, GREEDY, other=9, error=1e-5)
    assert not reference.near_tie(logits, 0.0, GREEDY, other=2, error=1e-5)
    # Equal logits: token k is drawn between k/23 and (k+1)/23.
    level = torch.zeros(VOCABULARY)
    assert reference.near_tie(level, 10 / 23 + 1e-6, Sampling(temperature=1.0, top_k=0, top_p=1.0), other=9, error=1e-5)
    assert not reference.near_tie(level, 10.5 / 23, Sampling(temperature=1.0, top_k=0, top_p=1.0), other=9, error=1e-5)


KEPT = {  # of tokens with 4/6, 1/6 and 1/6 the first, and one or both of the others; by min_p perhaps none
    "top_p": (Sampling(temperature=1.0, top_k=0, top_p=0.7), 0.0),
    "top_k": (Sampling(temperature=1.0, top_k=2, top_p=1.0), 0.0),
    "min_p": (Sampling(temperature=1.0, top_k=0, top_p=1.0), 0.25),
}


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("difference", [0.0, 1e-6, -1e-6])
def test_of_tokens_that_are_all_but_equally_likely_one_or_both_may_be_kept(name: str, difference: float) -> None:
    reference, (sampling, min_p) = Reference(random_model("lstm"), []), KEPT[name]
    logits = torch.full((VOCABULARY,), -20.0)
    logits[4], logits[9], logits[12] = np.log(4), 0.0, difference
    # Where one of 9 and 12 is kept, it is drawn from 4/5 on; where both are, 9 is drawn from 4/6 on and 12 from 5/6.
    for uniform, possible in ((0.1, {4}), (0.75, {4, 9}), (0.82, {9, 12}), (0.9, {9, 12})):
        for other in (4, 9, 12, 2):
            near = reference.near_tie(logits, uniform, sampling, other, 1e-5, min_p)
            assert near == (other in possible or (other == 4 and name == "min_p")), (uniform, other)


def test_a_token_far_from_the_end_of_what_is_kept_is_no_near_tie() -> None:
    reference = Reference(random_model("lstm"), [])
    logits = torch.linspace(3, -3, VOCABULARY)
    sampling = Sampling(temperature=1.0, top_k=0, top_p=0.5)
    drawn = int(reference.draw(logits[None], np.array([0.99], np.float32), sampling))
    assert not any(
        reference.near_tie(logits, 0.99, sampling, other, 1e-5) for other in range(VOCABULARY) if other != drawn
    )


def test_graphs_whose_every_difference_is_a_near_tie_fail_where_these_are_many(
    exported: tuple[LanguageModel, Path],
) -> None:
    """A planted error of the logits that is as large as the float error: each difference alone would be excused."""
    model, folder = exported
    other = random_model("bilstm" if objective_of(model).both_sides else "lstm")
    other.decoder.bias.add_(0.05 * torch.randn(VOCABULARY))
    settings = override(VERIFY, {"num_tokens": 300, "logit_tolerance": 0.5, "nats_tolerance": 0.5})
    message = r"^\d+ of \d+ tokens are near ties, more than 2 in 10,000$"
    with pytest.raises(VerificationError, match=message):
        verify("v", other, folder, held_out(), metrics_of(model, held_out()), settings, SCORING)


def test_near_ties_are_counted_over_the_whole_verification() -> None:
    tie = NearTie(0, 1, 2, 3)
    few_near_ties([Agreement(5000, [tie, tie]), *[Agreement(5000)] * 4, Agreement(800, [tie, tie, tie])])  # 5 of 25,800
    few_near_ties([Agreement(60, [tie]), Agreement(60)])
    for agreements in (
        [Agreement(5000, [tie])] * 5 + [Agreement(800, [tie])],  # no more than one with each setting, and 6 of 25,800
        [Agreement(60, [tie]), Agreement(60, [tie])],
    ):
        with pytest.raises(VerificationError, match="tokens are near ties"):
            few_near_ties(agreements)


def test_every_near_tie_is_told_of_its_own_setting_and_row(
    exported: tuple[LanguageModel, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All settings are rows of one batch in PyTorch; what differs there is put in place of its comparison."""
    model, folder = exported
    reference = reference_of(model, folder, MANIFEST)
    verification = Verification(reference, folder, held_out(), metrics_of(model, held_out()), VERIFY, SCORING, error=1)
    prompts, settings = len(verification.prompts), 1 + len(VERIFY.sampling)
    ties = [NearTie(row, 0, 2, 3) for row in (0, prompts - 1, prompts + 1, 2 * prompts + 4)]
    all_rows = Agreement(30 * settings, ties)
    monkeypatch.setattr(verification.comparison, "generated", lambda *_, **__: all_rows)
    verification._generated()
    assert [each.tokens for each in verification.agreements] == [30] * settings
    assert [[tie.row for tie in each.near_ties] for each in verification.agreements] == [[0, prompts - 1], [1], [4]]


def test_a_bundle_names_the_hash_of_each_of_its_files(exported: tuple[LanguageModel, Path], tmp_path: Path) -> None:
    _, graphs = exported
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    folder = tmp_path / "bundle"
    folder.mkdir()
    write_bundle(folder, graphs, tokenizer, {"verification": {"verified": True}})
    description = read_json(folder / "bundle.json")
    files = {file.name for file in folder.iterdir()} - {"bundle.json"}
    assert set(description["files"]) == files
    assert len(files) == 4
    for name, entry in description["files"].items():
        assert entry == {"sha256": sha256_of(folder / name), "bytes": (folder / name).stat().st_size}


@pytest.mark.parametrize("moved", [0.0, 0.01])
def test_verifications_in_parallel_are_those_of_one_after_the_other(tmp_path: Path, moved: float) -> None:
    """And what fails in another process fails here, by the same one line."""
    model, tokens = random_model("gru"), held_out()
    write_held_out(tmp_path / "tokens", tokens)
    for precision in ("fp32", "int8"):
        folder = tmp_path / "graphs" / "gru" / precision
        folder.mkdir(parents=True)
        write_graphs(folder, "gru", model, MANIFEST, PARAMS.export, precision, tokens.ids)
    metrics = metrics_of(model, tokens)
    model.decoder.bias[5] += moved
    (tmp_path / "models" / "gru").mkdir(parents=True)
    save(tmp_path / "models" / "gru", model, "gru", config_of("gru"))
    if moved:
        with pytest.raises(VerificationError, match="differs from PyTorch's"):
            verify_all(tmp_path, "gru", ("fp32", "int8"), metrics, VERIFY, SCORING)
        return
    verified = verify_all(tmp_path, "gru", ("fp32", "int8"), metrics, VERIFY, SCORING)
    assert list(verified) == ["fp32", "int8"]
    for precision, results in verified.items():
        alone = verify("v", model, tmp_path / "graphs" / "gru" / precision, tokens, metrics, VERIFY, SCORING)
        counts = ("verified", "greedy_tokens_identical", "sampled_tokens_identical", "near_ties")
        assert {name: results[name] for name in counts} == {name: alone[name] for name in counts}


def write_held_out(folder: Path, tokens: TokenFile) -> None:
    folder.mkdir()
    tokens.ids.tofile(folder / "test.bin")
    np.save(folder / "test.starts.npy", tokens.starts)
    hashes = {"sha256": sha256_of(folder / "test.bin"), "starts_sha256": sha256_of(folder / "test.starts.npy")}
    write_json(folder / "manifest.json", {**MANIFEST, "dtype": "uint16", "splits": {"test": tokens.counts | hashes}})


def test_numbers_beside_edges_are_no_near_ties_themselves() -> None:
    """Between the many unlikely tokens of a large vocabulary every number lies beside some edge."""
    generator = np.random.default_rng(3)
    logits = torch.from_numpy(generator.normal(0, 4, (50, 2048)).astype(np.float32))
    uniform = generator.random(50, np.float32)
    error = 1e-5
    numbers = BesideEdges(error)(logits, torch.zeros(2048), uniform)
    ends = torch.softmax(logits.double(), dim=-1).cumsum(dim=-1)
    moved = numbers != uniform
    assert 10 < moved.sum() < 50  # some are moved, and some had no room
    nearest = (ends - torch.from_numpy(numbers)[:, None]).abs().amin(dim=-1).numpy()
    assert nearest[moved].min() > 4 * error
