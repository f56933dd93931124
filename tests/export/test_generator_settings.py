"""Promises of generator.onnx with all that a call may ask for: ragged batches, any chunking, every precision.

The reference goes token by token with the bundle's own step.onnx, one row alone, and draws with torch. That step.onnx
is the PyTorch model is shown in test_graphs.py and test_precisions.py, and in fp32 here again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells.cases import export_settings, make
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recurlm.export.bundle import write_graphs
from recurlm.export.graphs import ExportCache
from recurlm.export.sampling import sample, suppression
from recurlm.model import LanguageModel
from recurlm.verify.sessions import Graphs

VOCABULARY = 37
MANIFEST = {
    "special": {"bos": 0, "mask": 1, "unk": None, "eol": None},
    "tokenizer_sha256": "0" * 64,
    "kind": "char",
    "corpus": {},
}
PRECISIONS = ("fp32", "int8", "int4")
# (hidden, embedding, layers): sizes that are no multiple of anything, and one that a block of 4 bits fits into.
SIZES = [(9, 6, 2), (32, 32, 2), (17, 5, 1)]
# States of one axis, and of three: the loop is the same for every cell.
CASES = {"lstm": SIZES, "linear_attention": SIZES[:2]}


@dataclass(frozen=True)
class Settings:
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    penalty: float = 1.0


SETTINGS = st.builds(
    Settings,
    temperature=st.sampled_from([0.0, 0.4, 1.0, 1.7]),
    top_k=st.sampled_from([0, 0, 1, 5, 30, 10**9]),
    top_p=st.sampled_from([1.0, 1.0, 0.5, 0.95]),
    min_p=st.sampled_from([0.0, 0.0, 0.1, 1.0]),
    penalty=st.sampled_from([1.0, 1.0, 1.3, 0.7]),
)


def random_model(name: str, hidden: int, embedding: int, layers: int) -> LanguageModel:
    torch.manual_seed(hidden)
    own = {"heads": 1} if name == "linear_attention" else {}
    model = make(name, VOCABULARY, embedding_size=embedding, hidden_size=hidden, layers=layers, **own)
    model.embedding.weight.mul_(3)
    model.decoder.bias.normal_(std=1.5)
    return model


@pytest.fixture(scope="module", params=CASES)
def bundles(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, int], tuple[LanguageModel, Graphs]]:
    """A variant's graphs by precision and size."""
    written = {}
    for size in CASES[request.param]:
        model, cache = random_model(request.param, *size), ExportCache()
        for precision in PRECISIONS:
            folder = tmp_path_factory.mktemp(f"{request.param}-{precision}")
            text = np.random.default_rng(0).integers(2, VOCABULARY, 600)
            options = export_settings(group_size=16, max_folded_table_mb=0.0 if size[2] == 1 else 16.0)
            write_graphs(folder, request.param, model, MANIFEST, options, precision, text, cache)
            written[precision, size[0]] = (model, Graphs(folder, threads=1))
    return written


def feeds_of(rows: list[Settings], **more: Any) -> dict[str, Any]:
    return {
        "temperature": np.array([row.temperature for row in rows], np.float32),
        "top_k": np.array([row.top_k for row in rows], np.int64),
        "top_p": np.array([row.top_p for row in rows], np.float32),
        "min_p": np.array([row.min_p for row in rows], np.float32),
        "repetition_penalty": np.array([row.penalty for row in rows], np.float32),
        **more,
    }


def expected(
    model: LanguageModel, graphs: Graphs, prompt: list[int], uniform: np.ndarray, row: Settings, stop: int
) -> list[int]:
    """What one row alone gives, up to its stop token."""
    state = {name: value.numpy() for name, value in model.initial_state(1).items()}
    for token in prompt[:-1]:
        _, state = graphs.step(np.array([token]), state)
    seen = torch.zeros(1, VOCABULARY, dtype=torch.bool)
    seen[0, prompt] = True
    token, tokens = prompt[-1], []
    for number in uniform:
        logits, state = graphs.step(np.array([token]), state)
        drawn = sample(
            torch.from_numpy(logits),
            torch.tensor([row.temperature]),
            torch.tensor([row.top_k]),
            torch.tensor([row.top_p]),
            torch.tensor([number]),
            suppression(VOCABULARY, [1]),
            torch.tensor([row.min_p]),
            torch.tensor([row.penalty]),
            seen,
        )
        token = int(drawn)
        tokens.append(token)
        seen[0, token] = True
        if token == stop:
            break
    return tokens


@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_row_of_any_call_in_any_chunks_is_what_it_would_be_alone(
    bundles: dict[tuple[str, int], tuple[LanguageModel, Graphs]], data: st.DataObject
) -> None:
    model, graphs = bundles[data.draw(st.sampled_from(sorted(bundles)))]
    batch, time = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 24))
    prompts = [data.draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=9)) for _ in range(batch)]
    rows = [data.draw(SETTINGS) for _ in range(batch)]
    stop = data.draw(st.sampled_from([-1, -1, 0, 5, 9]))
    uniform = np.random.default_rng(data.draw(st.integers(0, 2**31))).random((batch, time), np.float32)
    wanted = [expected(model, graphs, prompts[row], uniform[row], rows[row], stop) for row in range(batch)]

    feeds = feeds_of(rows, stop_token=np.array([stop]))
    padded = np.full((batch, max(map(len, prompts))), 3)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = prompt
    lengths = np.array([len(prompt) for prompt in prompts])
    whole, _ = graphs.call(
        "generator",
        feeds | {"prompt": padded, "prompt_length": lengths, "max_new_tokens": np.array(time), "uniform": uniform},
    )
    for row, tokens in enumerate(wanted):
        assert whole["length"][row] == len(tokens)
        assert whole["tokens"][row, : len(tokens)].tolist() == tokens
        assert (whole["tokens"][row, len(tokens) :] == -1).all()
    assert whole["tokens"].shape[1] == max(map(len, wanted))
    for row, prompt in enumerate(prompts):
        assert set(np.flatnonzero(whole["next_seen"][row])) == {*prompt, *wanted[row]}

    if stop < 0:  # a second call goes on exactly where the first ended
        cut = data.draw(st.integers(0, time))
        first, state = graphs.call(
            "generator",
            feeds | {"prompt": padded, "prompt_length": lengths, "max_new_tokens": np.array(cut), "uniform": uniform},
        )
        last = first["tokens"][:, -1:] if cut else np.array([[prompt[-1]] for prompt in prompts])
        second, _ = graphs.call(
            "generator",
            feeds
            | {
                "seen": first["next_seen"],
                "prompt": last,
                "prompt_length": np.ones(batch, np.int64),
                "max_new_tokens": np.array(time - cut),
                "uniform": uniform[:, cut:] if cut < time else np.zeros((batch, 1), np.float32),
            },
            state,
        )
        joined = np.concatenate([first["tokens"].reshape(batch, -1), second["tokens"].reshape(batch, -1)], axis=1)
        assert joined.tolist() == whole["tokens"].tolist()


def test_rows_that_stopped_keep_the_state_that_they_stopped_in(
    bundles: dict[tuple[str, int], tuple[LanguageModel, Graphs]],
) -> None:
    model, graphs = bundles["fp32", 9]
    uniform = np.random.default_rng(4).random((3, 40), np.float32)
    prompts = np.array([[5], [7], [11]])
    call = {"prompt": prompts, "prompt_length": np.ones(3, np.int64), "max_new_tokens": np.array(40)}
    results, _ = graphs.call("generator", feeds_of([Settings()] * 3) | call | {"uniform": uniform})
    free = results["tokens"]
    stop = int(free[0, 6])  # the first row ends here, or before
    found, after = graphs.call(
        "generator", feeds_of([Settings()] * 3, stop_token=np.array([stop])) | call | {"uniform": uniform}
    )
    assert 1 <= found["length"][0] <= 7
    for row in range(3):
        read = [int(prompts[row, 0]), *free[row, : found["length"][row] - 1].tolist()]
        state = model.initial_state(1)
        for token in read:
            _, state = model.step(torch.tensor([token]), state)
        for name, value in state.items():
            np.testing.assert_allclose(after[name][row], value[0], atol=1e-5)


def test_in_fp32_the_tokens_are_those_of_pytorch(
    bundles: dict[tuple[str, int], tuple[LanguageModel, Graphs]],
) -> None:
    class Torch:
        """Torch's own step in the place of step.onnx."""

        def step(self, token: np.ndarray, state: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
            logits, after = model.step(torch.from_numpy(token), {k: torch.from_numpy(v) for k, v in state.items()})
            return logits.numpy(), {name: value.numpy() for name, value in after.items()}

    rows = [Settings(1.0, 7, 0.9, 0.05, 1.3), Settings(0.0, penalty=1.5), Settings(0.8, min_p=0.2)]
    for model, graphs in (bundle for (precision, _), bundle in bundles.items() if precision == "fp32"):
        uniform = np.random.default_rng(8).random((3, 60), np.float32)
        call = {"prompt": np.array([[5], [7], [11]]), "prompt_length": np.ones(3, np.int64)}
        results, _ = graphs.call(
            "generator", feeds_of(rows) | call | {"max_new_tokens": np.array(60), "uniform": uniform}
        )
        found = results["tokens"]
        for row, prompt in enumerate(call["prompt"]):
            assert found[row].tolist() == expected(model, Torch(), prompt.tolist(), uniform[row], rows[row], -1)  # type: ignore[arg-type]


def test_draws_of_the_graph_follow_the_softmax(tmp_path: Path) -> None:
    """10⁵ draws of a model that says the same whatever it has read."""
    model = random_model("rnn", 4, 4, 1)
    for name, parameter in model.named_parameters():
        if name != "decoder.bias":
            parameter.zero_()
    shared = ExportCache()
    for precision in PRECISIONS:
        folder = tmp_path / precision
        folder.mkdir()
        write_graphs(folder, "rnn", model, MANIFEST, export_settings(), precision, np.arange(2, 30), shared)
        uniform = np.random.default_rng(5).random((100, 1000), np.float32)
        call = {"prompt": np.full((100, 1), 3), "prompt_length": np.ones(100, np.int64)}
        results, _ = Graphs(folder).call(
            "generator",
            feeds_of([Settings()] * 100) | call | {"max_new_tokens": np.array(1000), "uniform": uniform},
        )
        found = results["tokens"]
        kept = [token for token in range(VOCABULARY) if token != 1]  # 1 is suppressed
        weight = torch.softmax(model.decoder.bias[kept].double(), 0).numpy() * found.size
        counts = np.bincount(found.ravel(), minlength=VOCABULARY)
        assert counts[1] == 0
        chi_squared = ((counts[kept] - weight) ** 2 / weight).sum()
        assert chi_squared < 66.6  # 35 degrees of freedom: a fair sampler is above in one run of a thousand
