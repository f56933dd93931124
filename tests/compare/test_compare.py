"""The comparison: equal effort, no test text before the score, the same numbers again, no more said than is shown."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from configs import CHECKOUT, merged, write_params
from tiny_project import TINY, write_tiny_corpus

from recurlm.compare import settings, tune
from recurlm.compare.runs import Texts, score_seeds, train_seeds
from recurlm.compare.settings import Compare, Plan, read_plan
from recurlm.corpus import writer
from recurlm.errors import InputError
from recurlm.evaluation.perplexity import score
from recurlm.model import load
from recurlm.storage import read_json, sha256_of
from recurlm.tokens.files import open_tokens
from recurlm.training.loop import StoppedError

SMALL: dict[str, Any] = {
    "name": "tiny",
    "variants": ["gru", "lstm"],
    "corpus": {"path": "my_text/*.txt"},
    "tune": {"trials": 3, "startup_trials": 1, "tokens": 256},
    "train": {"seeds": [1, 2], "tokens": 512, "num_evals": 2},
    "score": {"min_documents": 2, "resamples": 99},
    "speed": {"rounds": 1, "seconds": 0.01},
}
BLOCK = {"embedding_size": 16, "hidden_size": 16, "layers": 1}


def write_compare(changes: dict[str, Any]) -> Compare:
    raw = yaml.safe_load((CHECKOUT / "compare/params.yaml").read_text(encoding="utf-8"))
    Path("compare").mkdir(exist_ok=True)
    settings.FILE.write_text(yaml.safe_dump(merged(raw, changes), sort_keys=False), encoding="utf-8")
    return settings.load()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compare]:
    """A folder with a tiny text, its tokens and the plans of two variants."""
    monkeypatch.chdir(tmp_path)
    write_tiny_corpus(tmp_path / "my_text")
    write_params(tmp_path, merged(TINY, {"variants": {"gru": BLOCK, "lstm": BLOCK}}))
    shutil.copy(CHECKOUT / "zoo.yaml", tmp_path)
    compare = write_compare(SMALL)
    for stage in ("text", "plan"):
        runpy.run_path(str(CHECKOUT / f"compare/{stage}.py"), run_name="__main__")
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    yield compare
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The names of the files that Python opens."""
    names: list[str] = []
    listening = [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if listening and event == "open":
            names.append(Path(str(arguments[0])).name)

    sys.addaudithook(hook)
    yield names
    listening.clear()


def stop_after(steps: int) -> Callable[[], bool]:
    left = iter(range(steps))
    return lambda: next(left, None) is None


def test_neither_tune_nor_train_opens_the_test_text(project: Compare, opened: list[str]) -> None:
    for path in (project.folder / "tokens").glob("test.*"):
        path.write_bytes(b"unreadable")
    opened.clear()
    plan = read_plan(project, "gru")
    tune.tune(project, plan)
    train_seeds(project, plan)
    assert {"train.bin", "validation.bin"} <= set(opened)
    assert not {"test.bin", "test.starts.npy"} & set(opened)
    with pytest.raises(InputError, match=r"test\.bin: corrupted"):
        score_seeds(project, plan)
    assert "test.bin" in opened


def test_the_stages_before_the_score_depend_on_every_shard_of_tokens(
    project: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = yaml.safe_load((CHECKOUT / "compare/dvc.yaml").read_text(encoding="utf-8"))["stages"]
    paths = {name: [path for path in stages[name]["do"]["deps"] if "/tokens" in path] for name in ("tune", "train")}
    assert paths["tune"] == paths["train"]
    watched = [path.replace("${name}", project.name) for path in paths["tune"]]

    def state() -> list[str]:
        runpy.run_path(str(CHECKOUT / "compare/text.py"), run_name="__main__")
        return [sha256_of(Path(path)) for path in watched]

    monkeypatch.setattr(writer, "SHARD", 1 << 13)
    before, first = state(), project.folder / "tokens/train.bin"
    content = first.read_bytes()
    assert (project.folder / "tokens/train-00001.bin").exists()
    corpus = sorted(Path("my_text").glob("*.txt"))
    text = corpus[-1].read_text(encoding="utf-8")
    corpus[-1].write_text(text[::-1], encoding="utf-8")
    after = state()
    assert first.read_bytes() == content, "the change is in another shard"
    assert after != before


def test_a_search_that_was_killed_goes_on_to_the_same_trials(
    project: Compare, capfd: pytest.CaptureFixture[str]
) -> None:
    plan, file = read_plan(project, "lstm"), project.folder / "tuned/lstm.json"
    tune.tune(project, plan)
    undisturbed = file.read_bytes()
    shutil.rmtree(project.folder / "trials")
    file.unlink()
    for steps in (0, 1, 0):
        with pytest.raises(StoppedError):
            tune.tune(project, plan, stop_after(steps))
    assert not file.exists()
    tune.tune(project, plan)
    assert capfd.readouterr().err.count("goes on from its checkpoint") == 3
    assert file.read_bytes() == undisturbed
    trials = json.loads(undisturbed)["trials"]
    assert len(trials) == 3
    assert len({json.dumps(trial["settings"]) for trial in trials}) == 3


def test_more_trials_go_on_from_fewer(project: Compare) -> None:
    plan = read_plan(project, "gru")
    tune.tune(project, plan)
    three = read_json(project.folder / "tuned/gru.json")
    tune.tune(write_compare(merged(SMALL, {"tune": {"trials": 4}})), plan)
    four = read_json(project.folder / "tuned/gru.json")
    assert four["key"] == three["key"]
    assert [row["settings"] for row in four["trials"][:3]] == [row["settings"] for row in three["trials"]]
    assert min(row["validation_nats_per_token"] for row in four["trials"]) == best_loss(four)


def best_loss(tuned: dict[str, Any]) -> float:
    (row,) = [row for row in tuned["trials"] if row["best"]]
    assert row["settings"] == tuned["best"]
    return float(row["validation_nats_per_token"])


def test_a_trial_that_diverges_counts_as_one(project: Compare) -> None:
    rates = {"muon_lr": [1e4, 1e5], "adamw_lr": [1e4, 1e5]}
    compare = write_compare(merged(SMALL, {"tune": {"trials": 2, "space": rates}}))
    with pytest.raises(InputError, match="all 2 trials of 'gru' diverged"):
        tune.tune(compare, read_plan(compare, "gru"))
    mild = tune.optuna.trial.create_trial(
        params=dict.fromkeys(("muon_lr", "adamw_lr"), 0.01)
        | {"weight_decay": 0.1, "dropout": 0, "state_reset_prob": 0},
        distributions=tune.distributions(project.tune.space),
        value=np.inf,
    )
    assert tune.propose(project.tune, 1, [mild]) != tune.propose(project.tune, 1, []), "TPE learns from it"


def test_every_variant_is_proposed_the_same_first_trials_within_the_space(project: Compare) -> None:
    first = [tune.propose(project.tune, 0, []) for _ in range(2)]
    assert first[0] == first[1] != tune.propose(project.tune, 1, [])
    for name, (low, high) in project.tune.space:
        assert low <= first[0][name] <= high


def contents(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found
    return found


def test_training_that_was_killed_ends_with_the_same_models(
    project: Compare, capfd: pytest.CaptureFixture[str]
) -> None:
    plan, folder = read_plan(project, "gru"), project.folder / "models/gru"
    tune.tune(project, plan)
    train_seeds(project, plan)
    undisturbed = contents(folder)
    for part in ("models", "running"):
        shutil.rmtree(project.folder / part)
    for steps in (0, 3, 2):
        with pytest.raises(StoppedError):
            train_seeds(project, plan, stop_after(steps))
    train_seeds(project, plan)
    assert capfd.readouterr().err.count("goes on from its checkpoint") == 3
    assert contents(folder) == undisturbed
    assert undisturbed["1/model.safetensors"] != undisturbed["2/model.safetensors"]


@pytest.mark.parametrize(("documents", "unit"), [(2, "document"), (3, "window")])
def test_the_units_add_up_to_the_score(project: Compare, documents: int, unit: str) -> None:
    compare = write_compare(merged(SMALL, {"score": {"min_documents": documents}}))
    plan = read_plan(compare, "gru")
    tune.tune(compare, plan)
    train_seeds(compare, plan)
    score_seeds(compare, plan)
    found, test = read_json(compare.folder / "scores/gru.json"), open_tokens(compare.folder / "tokens", "test")
    assert found["unit"] == unit
    assert len(found["tokens"]) == len(found["nats"]["1"])
    assert sum(found["tokens"]) == test.counts["tokens"]
    for seed, nats in found["nats"].items():
        trained = load(compare.folder / "models/gru" / seed)
        whole = score(trained, test.ids, test.starts, **plan.evaluate.model_dump())
        assert sum(nats) == pytest.approx(whole.nats, abs=1e-5 * len(nats))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": ["lstn"]}, "no variant 'lstn': did you mean 'lstm'"),
        ({"variants": ["bilstm"]}, "'bilstm' predicts from both sides"),
        ({"reference": "lstn"}, "reference is 'lstn': did you mean 'lstm'"),
    ],
)
def test_a_variant_that_cannot_be_compared_is_refused(project: Compare, changes: Any, message: str) -> None:
    compare = write_compare(merged(SMALL, changes))
    with pytest.raises(InputError, match=message):
        settings.write_plans(compare, settings.project()[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune": {"trials": 0}}, "'tune.trials' is 0"),
        ({"tune": {"space": {"muon_lr": [0.1, 0.01]}}}, r"write \[from, to\]"),
        ({"tune": {"space": {"adamw_lr": [0.0, 0.01]}}}, "begin above 0"),
        ({"tune": {"space": {"dropout": [0.0, 1.0]}}}, "a probability below 1"),
        ({"tune": {"space": {"state_reset_prob": [0.5, 2.0]}}}, "a probability below 1"),
        ({"train": {"seeds": [3, 1, 3]}}, "'train.seeds' .*3 is there twice"),
        ({"variants": ["lstm", "gru", "gru"]}, "'variants' .*'gru' is there twice"),
        ({"tune": {"trails": 3}}, "unknown parameter 'tune.trails': did you mean 'trials'"),
    ],
)
def test_a_value_that_does_not_fit_is_named(project: Compare, changes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_compare(merged(SMALL, changes))


def test_the_plan_of_a_variant_hangs_on_its_own_block_and_cell(
    project: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Path("recurlm")
    shutil.copytree(CHECKOUT / "src/recurlm", package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(settings.recurlm, "__file__", str(package / "__init__.py"))

    def edit(file: str) -> None:
        (package / file).write_text((package / file).read_text(encoding="utf-8") + "\n# edited\n", encoding="utf-8")

    def plans() -> dict[str, bytes]:
        compare, params = settings.project()
        settings.write_plans(compare, params)
        return {path.stem: path.read_bytes() for path in (compare.folder / "plan").iterdir()}

    before = plans()
    write_params(Path(), merged(TINY, {"variants": {"gru": BLOCK | {"hidden_size": 8}, "lstm": BLOCK}}))
    assert {name for name, content in plans().items() if content != before[name]} == {"gru"}
    same = {"train": {"checkpoint": {"every_seconds": 5}, "machine": {"threads": 1}, "data": {"epochs": 9}}}
    same |= {"evaluate": {"window_tokens": 32}}
    write_params(Path(), merged(merged(TINY, {"variants": {"gru": BLOCK, "lstm": BLOCK}}), same))
    assert plans() == before
    for file, stale in (
        ("variants/gru.py", {"gru"}),
        ("variants/mamba2.py", set()),
        ("training/loop.py", {"gru", "lstm"}),
    ):
        earlier = plans()
        edit(file)
        assert {name for name, content in plans().items() if content != earlier[name]} == stale


def test_the_whole_ends_with_a_table_a_page_and_trials_in_mlflow_and_again_with_the_same_numbers(
    project: Compare, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = write_compare(SMALL | {"variants": ["gru"]})
    plan: Plan = read_plan(project, "gru")
    tune.tune(project, plan)
    train_seeds(project, plan)
    score_seeds(project, plan)
    found = []
    for _ in range(2):
        runpy.run_path(str(CHECKOUT / "compare/report.py"), run_name="__main__")
        found.append(read_json(project.folder / "results.json"))
    assert found[0] == found[1]
    assert capfd.readouterr().err.count("3 trials in MLflow") == 1
    assert found[0]["reference"] is None  # the LSTM is not among them
    assert "| gru |" in (project.folder / "table.md").read_text(encoding="utf-8")
    assert "Test perplexity" in Path("data/compare/index.html").read_text(encoding="utf-8")
    for name in ("quality", "seconds", "state"):
        assert (project.folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    from mlflow import MlflowClient

    client = MlflowClient("sqlite:///.mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("recurlm-compare")
    runs = client.search_runs([experiment.experiment_id])
    children = [run.data.tags.get("mlflow.parentRunId") for run in runs]
    assert len(runs) == 4
    assert sorted(children.count(run.info.run_id) for run in runs) == [0, 0, 0, 3]


def test_own_text_and_variants_are_written_into_the_parameters_and_bad_ones_are_not(
    project: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(CHECKOUT / "compare/params.yaml", settings.FILE)
    before = settings.FILE.read_text(encoding="utf-8")
    start = runpy.run_path(str(CHECKOUT / "compare/start.py"))
    arguments = start["argparse"].Namespace(text="poems/*.txt", variants=["lstm", "gru"], trials=2, seeds=2)
    start["_edit"](arguments)
    after = settings.FILE.read_text(encoding="utf-8")
    compare = settings.load()
    assert (compare.name, compare.corpus.path) == ("own", "poems/*.txt")
    assert (compare.variants, compare.tune.trials, compare.train.seeds) == (("lstm", "gru"), 2, (1, 2))
    assert [line.partition("#")[2] for line in after.splitlines()] == [
        line.partition("#")[2] for line in before.splitlines()
    ]
    arguments.trials = 0
    with pytest.raises(InputError, match=r"'tune\.trials' is 0"):
        start["_edit"](arguments)
    assert settings.FILE.read_text(encoding="utf-8") == after


def test_the_time_is_said_for_each_variant(project: Compare) -> None:
    from recurlm.compare.speed import estimate

    plans = [read_plan(project, name) for name in project.variants]
    seconds = estimate(project, plans, Texts(project.folder / "tokens"))
    more = write_compare(merged(SMALL, {"tune": {"trials": 3000}}))
    assert all(estimate(more, plans, Texts(more.folder / "tokens"))[name] > seconds[name] for name in seconds)
