"""Promises of int8 and int4: all products quantized, PyTorch that quantizes likewise gives the same, a bounded loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from cells.cases import CASES, export_settings, make
from configs import PARAMS
from onnx.reference import ReferenceEvaluator
from safetensors.torch import load_file

from recurlm.config import Evaluate, Export, Precision, Sampling, override
from recurlm.evaluation.perplexity import describe, score
from recurlm.export.bundle import QUANTIZED, never_drawn, write_graphs
from recurlm.export.calibrate import quantizer_for
from recurlm.export.graphs import Builder, ExportCache
from recurlm.export.quantize import ACTIVATIONS, Quantizer, count_products
from recurlm.model import LanguageModel
from recurlm.objective import objective_of
from recurlm.storage import read_json
from recurlm.tokens.files import TokenFile
from recurlm.verify.agreement import Verification, reference_of
from recurlm.verify.checks import GREEDY, Comparison, VerificationError, chunked
from recurlm.verify.quantized import QuantizedArithmetic
from recurlm.verify.reference import Reference
from recurlm.verify.sessions import Graphs, pieces

VOCABULARY = 43
MANIFEST = {
    "special": {"bos": 0, "mask": 1, "unk": None, "eol": None},
    "tokenizer_sha256": "0" * 64,
    "kind": "char",
    "corpus": {},
}
TEXT = np.random.default_rng(0).integers(2, VOCABULARY, 3000).astype(np.uint16)
FREE = Sampling(temperature=1.0, top_k=0, top_p=1.0)
SAMPLINGS = [
    GREEDY,
    FREE,
    Sampling(temperature=0.7, top_k=5, top_p=1.0),
    Sampling(temperature=1.2, top_k=0, top_p=0.8),
]
SCORING = Evaluate(batch_size=3, window_tokens=40, context_tokens=10)
QUANTIZING: list[Precision] = ["int8", "int4"]


def random_model(name: str) -> LanguageModel:
    torch.manual_seed(4)
    model = make(name, VOCABULARY, embedding_size=20, hidden_size=24, layers=2)
    model.embedding.weight.mul_(2)
    return model


class Made:
    """A model's graphs in a precision, and PyTorch that quantizes likewise."""

    def __init__(self, name: str, precision: Precision, folder: Path, cache: ExportCache, settings: Export) -> None:
        self.name, self.precision, self.folder = name, precision, folder
        self.model = random_model(name)
        self.objective = objective_of(self.model)
        self.products = write_graphs(folder, name, self.model, MANIFEST, settings, precision, TEXT, cache)
        self.quantized = QuantizedArithmetic(load_file(folder / QUANTIZED), self.model)
        self.graphs = Graphs(folder)
        self.comparison = self.comparison_with(self.quantized)

    def comparison_with(self, arithmetic: QuantizedArithmetic) -> Comparison:
        suppressed = never_drawn(MANIFEST["special"], self.objective)
        return Comparison(Reference(self.model, suppressed, arithmetic), self.graphs)


@pytest.fixture(scope="module")
def caches() -> dict[str, ExportCache]:
    return {name: ExportCache() for name in CASES}


@pytest.fixture(scope="module", params=[(name, precision) for name in CASES for precision in QUANTIZING], ids="-".join)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, caches: dict[str, ExportCache]
) -> Made:
    name, precision = request.param
    return Made(name, precision, tmp_path_factory.mktemp(name), caches[name], export_settings(group_size=16))


def text_of(length: int) -> np.ndarray:
    return np.random.default_rng(2).integers(2, VOCABULARY, length)


def test_every_product_with_weights_is_quantized_and_those_of_activations_become_sums_of_pairs(made: Made) -> None:
    products = {kind for kind, count in made.products.items() if count}
    assert products == {made.precision}
    counts = [count_products(onnx.load(file).graph) for file in made.folder.glob("*.onnx")]
    for kind in products:
        assert sum(count[kind] for count in counts) == made.products[kind]
    assert not any(count["fp32"] or count[ACTIVATIONS] for count in counts)


def test_every_step_equals_pytorchs_bit_for_bit(made: Made) -> None:
    """Each from its own states: 120 steps of 8 rows and 40 of one."""
    assert made.comparison.steps(text_of(300)) == 1000
    assert made.quantized.met == {key.split(".")[1] for key in made.quantized.arithmetic}


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_every_token_is_pytorchs_from_prompts_of_different_lengths(made: Made, sampling: Sampling) -> None:
    rows = pieces(text_of(300), [1, 5, 30])
    uniform = np.random.default_rng(3).random((3, 50), np.float32)
    compare = made.comparison.filled if made.objective.both_sides else made.comparison.generated
    agreement = compare(rows, uniform, sampling)
    assert agreement.tokens == (36 if made.objective.both_sides else 150)
    assert not agreement.near_ties
    assert made.comparison.scored(rows) < 1e-5


def test_calls_in_parts_give_the_tokens_of_one_call(made: Made) -> None:
    """Parts of the time for a model that carries its state on; rows of the batch for one that reads whole texts."""
    uniform = np.random.default_rng(3).random((3, 90), np.float32)
    if not made.objective.both_sides:
        chunked(made.graphs, text_of(5), uniform[0], FREE)
        return
    tokens, lengths = text_of(270).reshape(3, 90), np.array([90, 41, 1])
    filled, *_ = made.graphs.fill(tokens, lengths, uniform, FREE)
    scored, _ = made.graphs.score(tokens, lengths)
    for row, length in enumerate(lengths):
        text, alone = tokens[row : row + 1, :length], lengths[row : row + 1]
        expected, *_ = made.graphs.fill(text, alone, uniform[row : row + 1, :length], FREE)
        np.testing.assert_array_equal(filled[row, :length], expected[0])
        np.testing.assert_allclose(scored[row, :length], made.graphs.score(text, alone)[0][0], rtol=1e-5, atol=1e-5)
        assert not scored[row, length:].any()


def test_another_machine_comes_to_the_same_bits(made: Made) -> None:
    """Every operator done by numpy, whose tanh and exp are others: the same states after each of many tokens."""
    numpys = ReferenceEvaluator(onnx.load(made.folder / "step.onnx"))
    state = {name: value.numpy() for name, value in made.model.initial_state(2).items()}
    for token in text_of(400).reshape(200, 2):  # numpy's time is that of its calls, whatever the batch
        feeds = {"token": token} | {f"state.{name}": value for name, value in state.items()}
        logits, state = made.graphs.step(token, state)
        outputs = {"logits": logits} | {f"next_state.{name}": value for name, value in state.items()}
        for name, expected in zip(outputs, numpys.run(list(outputs), feeds), strict=True):
            np.testing.assert_array_equal(outputs[name], expected, err_msg=name)


def test_weights_of_4_bits_are_unpacked_once_and_outside_of_the_loops(made: Made) -> None:
    if made.precision != "int4":
        return
    graph = onnx.load(made.folder / made.objective.graphs[-1]).graph
    unpacked = [node.input[0] for node in graph.node if node.op_type == "Mod"]
    assert len(unpacked) == len(set(unpacked)) > 1
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    assert inner
    assert not [node for body in inner for node in body.node if node.op_type == "Mod"]


def test_a_model_that_is_quantized_otherwise_fails(made: Made) -> None:
    """One weight off by one is seen: nothing is excused."""
    arithmetic = {key: value.clone() for key, value in made.quantized.arithmetic.items()}
    name = next(key for key in arithmetic if key.startswith("weights."))
    arithmetic[name][0, 0] += 1
    with pytest.raises(VerificationError, match="differs from PyTorch's"):
        made.comparison_with(QuantizedArithmetic(arithmetic, made.model)).steps(text_of(300))


def test_a_product_that_was_not_seen_is_an_error_and_stays_in_fp32_never() -> None:
    model = random_model("lstm")
    with pytest.raises(ValueError, match="was not seen while the model read text"):
        Builder(model, [], export_settings(), Quantizer({})).read()


def test_a_large_table_is_quantized_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caches: dict[str, ExportCache]
) -> None:
    monkeypatch.setattr("recurlm.export.quantize.SMALLEST_TABLE", 0)
    for number, settings in enumerate(
        (export_settings(group_size=16), export_settings(group_size=16, max_folded_table_mb=0))
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        made = Made("gru", "int8", folder, ExportCache(caches["gru"].traces), settings)
        assert made.comparison.steps(text_of(300)) == 1000
        assert any(key.startswith("table.") for key in made.quantized.arithmetic)
        step = onnx.load(folder / "step.onnx").graph
        assert not [
            w
            for w in step.initializer
            if w.data_type == onnx.TensorProto.FLOAT
            and w.dims[:1] == [VOCABULARY]
            and len(w.dims) > 1
            and w.dims[1] > 1
        ]


def test_the_same_text_gives_the_same_bytes(caches: dict[str, ExportCache], tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        Made("lstm", "int4", folder, caches["lstm"], export_settings(group_size=16))
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def held_out() -> TokenFile:
    ids = np.array([0, *text_of(199)], np.uint16)
    counts = {"tokens": 199, "words": 60, "bytes": 199, "characters": 199, "out_of_vocabulary_words": 0}
    return TokenFile(ids, np.array([0, 200]), counts, MANIFEST)


def test_a_verification_states_the_increase_of_perplexity_and_fails_past_its_bound(made: Made) -> None:
    tokens, reference = held_out(), reference_of(made.model, made.folder, MANIFEST)
    prefix = made.objective.metric_prefix
    metrics = describe(score(made.model, tokens.ids, tokens.starts, 40, 10, 3), tokens.counts, prefix)

    def verification(bound: float, nats: float) -> Verification:
        changes = {
            "num_tokens": 60,
            "sampling": [{"temperature": 0.8, "top_k": 5, "top_p": 1.0}],
            "max_perplexity_increase": {"int8": bound, "int4": bound},
        }
        name = f"{prefix}nats_per_token"
        changed = metrics | {name: metrics[name] + nats}
        return Verification(reference, made.folder, tokens, changed, override(PARAMS.verify, changes), SCORING)

    passes = verification(bound=0.05, nats=0.0)
    passes.run()
    results = passes.summary()
    assert abs(results["perplexity_increase"]) < 0.05
    assert results["precision"] == made.precision
    assert results["near_ties"] == 0
    assert results["greedy_tokens_identical"] == results["sampled_tokens_identical"] >= 60
    assert results["steps_equal"] == 1000

    beyond = verification(bound=0.0, nats=-0.2)  # as if PyTorch were better by far
    with pytest.raises(
        VerificationError, match=rf"{made.precision} raises the perplexity by .*verify\.max_perplexity_increase"
    ):
        beyond.run()


def test_calibration_reads_text_of_the_length_that_it_is_told(caches: dict[str, ExportCache]) -> None:
    model = random_model("gru")
    settings = export_settings(calibration_tokens=64, group_size=16)
    assert quantizer_for(model, settings, "fp32", TEXT, ExportCache()) is None
    short = quantizer_for(model, settings, "int8", TEXT[:10], ExportCache(caches["gru"].traces))
    assert short is not None
    assert len(short.products) == 5  # layer 0's U; layer 1's W and U; the projection and the decoder


def test_graphs_json_says_how_many_products_are_in_which_precision(made: Made) -> None:
    description = read_json(made.folder / "graphs.json")
    assert description["precision"] == made.precision
    assert description["products"] == {kind: count for kind, count in made.products.items() if count}


def test_files_pass_the_checker_and_declare_nothing_fixed_that_is_free(made: Made) -> None:
    for file in made.folder.glob("*.onnx"):
        model = onnx.load(file)
        onnx.checker.check_model(model, full_check=True)
        domains = {opset.domain for opset in model.opset_import}
        assert domains == {""}
        for value in (*model.graph.input, *model.graph.output):
            dimensions = value.type.tensor_type.shape.dim
            free = 2 if value.name in {"prompt", "tokens", "uniform", "filled", "log_prob"} else min(len(dimensions), 1)
            assert all(dimension.dim_param for dimension in dimensions[:free]), f"{file.name}: {value.name}"
