"""params.yaml is read strictly: what does not fit is named, with its place and the nearest name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml

from recurlm import config
from recurlm.errors import InputError, exit_cleanly
from recurlm.strict_yaml import load_yaml

ROOT = Path(__file__).parents[2]
Write = Callable[[dict[str, Any]], Path]


@pytest.fixture
def raw() -> dict[str, Any]:
    """Params that fit, as a YAML file holds them."""
    raw: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw["variants"]["rnn"]["nonlinearity"] = "relu"
    return raw


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(values: dict[str, Any]) -> Path:
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    return to_file


def set_at(values: dict[str, Any], place: str, value: object) -> None:
    *parents, key = place.split(".")
    for parent in parents:
        values = values[int(parent)] if isinstance(values, list) else values[parent]
    values[key] = value


def keys(values: object) -> object:
    """The tree of names, without the values."""
    return {name: keys(value) for name, value in values.items()} if isinstance(values, dict) else None


def test_the_project_s_own_params_name_every_knob() -> None:
    """What stands in the file is what stands in the code: no knob is hidden behind a default."""
    path = ROOT / "params.yaml"
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    raw["variants"] = {name: raw["model"] | block for name, block in raw["variants"].items()}
    assert keys(config.load(path).model_dump(mode="json")) == keys(raw)


def test_no_section_has_a_default(raw: dict[str, Any], write: Write) -> None:
    """params.yaml is the only place of defaults: whatever is left out of it is missing."""

    def places(values: dict[str, Any], prefix: str = "") -> list[str]:
        names = []
        for name, value in values.items():
            names.append(f"{prefix}{name}")
            if isinstance(value, dict) and f"{prefix}{name}" not in {"model", "variants"}:
                names += places(value, f"{prefix}{name}.")
        return names

    for place in places(raw):
        *parents, key = place.split(".")
        copy = yaml.safe_load(yaml.safe_dump(raw))
        holder = copy
        for parent in parents:
            holder = holder[parent]
        del holder[key]
        with pytest.raises(InputError, match="is missing"):
            config.load(write(copy))


def test_a_variant_has_what_the_model_section_says_unless_it_says_otherwise(raw: dict[str, Any], write: Write) -> None:
    raw["model"] |= {"dropout": 0.25, "layers": 3}
    raw["variants"]["gru"]["layers"] = 1
    params = config.load(write(raw))
    assert (params.variant("gru").dropout, params.variant("gru").layers) == (0.25, 1)
    assert (params.variant("lstm").dropout, params.variant("lstm").layers) == (0.25, 3)


def test_a_section_is_overridden_by_dotted_keys() -> None:
    train = config.load(ROOT / "params.yaml").train
    changed = config.override(train, {"data.epochs": 0.5, "seed": 9})
    assert (changed.data.epochs, changed.seed, changed.data.batch_size) == (0.5, 9, train.data.batch_size)
    with pytest.raises(InputError, match=r"unknown parameter 'data\.epoch': did you mean 'epochs'"):
        config.override(train, {"data.epoch": 1})
    with pytest.raises(InputError, match=r"'data\.epochs' is 0"):
        config.override(train, {"data.epochs": 0})


def test_what_was_written_is_read(raw: dict[str, Any], write: Write) -> None:
    set_at(raw, "train.data.epochs", 3)
    set_at(raw, "variants.gru.tie_weights", False)
    params = config.load(write(raw))
    assert params.train.data.epochs == 3
    assert params.variant("gru").tie_weights is False


@pytest.mark.parametrize(
    ("place", "near"),
    [
        ("trian", "train"),
        ("train.data.batchsize", "batch_size"),
        ("fetch.packaged.validation_play", "validation_plays"),
        ("fetch.hub.revison", "revision"),
        ("verify.sampling.0.topk", "top_k"),
        ("evaluate.window_token", "window_tokens"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(raw: dict[str, Any], write: Write, place: str, near: str) -> None:
    set_at(raw, place, 1)
    with pytest.raises(InputError, match=rf"unknown parameter '{place}': did you mean '{near}'\?"):
        config.load(write(raw))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("train.data.batch_size", 0),
        ("train.data.epochs", 0),
        ("train.data.epochs", 1e300),
        ("train.data.epochs", float("inf")),
        ("train.data.epochs", float("nan")),
        ("train.schedule.warmup_ratio", 1),
        ("train.seed", -1),
        ("train.data.sequence_length", 1),
        ("fetch.files.test_fraction", 1.5),
        ("tokenize.vocab_size", 12),
        ("evaluate.context_tokens", -1),
        ("verify.sampling.0.top_p", 0),
        ("variants.lstm.dropout", 1.0),
        ("variants.lstm.hidden_size", -3),
        ("variants.lstm.hidden_size", 1_000_000_000),
        ("variants.lstm.layers", 1_000_000_000),
        ("variants.lstm.muon_lr", float("inf")),
    ],
)
def test_a_value_out_of_range_is_named(raw: dict[str, Any], write: Write, place: str, value: object) -> None:
    set_at(raw, place, value)
    with pytest.raises(InputError, match=rf"'{place}' is {re.escape(repr(value))}: Input should be"):
        config.load(write(raw))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("train.data.batch_size", "many"),
        ("train.data.batch_size", 2.5),
        ("train", None),
        ("tokenize.lowercase", "perhaps"),
        ("variants.lstm.hidden_size", None),
        ("variants.lstm", 3),
        ("verify.sampling", 3),
    ],
)
def test_a_value_of_the_wrong_type_is_named(raw: dict[str, Any], write: Write, place: str, value: object) -> None:
    set_at(raw, place, value)
    with pytest.raises(InputError, match=rf"'{place}' is {value!r}: Input should be"):
        config.load(write(raw))


@pytest.mark.parametrize(
    "place",
    [
        "train.data.batch_size",
        "train.data.epochs",
        "train.machine.threads",
        "variants.gru.dropout",
        "variants.gru.layers",
    ],
)
def test_yes_is_no_number(raw: dict[str, Any], write: Write, place: str) -> None:
    """YAML reads yes and true as a boolean, which Python takes for 1."""
    set_at(raw, place, True)
    with pytest.raises(InputError, match=rf"'{place}' is True: write a number$"):
        config.load(write(raw))


@pytest.mark.parametrize("place", ["diagnose.context.cut", "diagnose.text.temperatures", "train.optimizer.adamw_betas"])
def test_yes_is_no_number_of_a_list(raw: dict[str, Any], write: Write, place: str) -> None:
    set_at(raw, place, [True, 5])
    with pytest.raises(InputError, match=rf"'{place}' is \[True, 5\]: write numbers$"):
        config.load(write(raw))


@pytest.mark.parametrize(
    ("place", "value", "twice"),
    [
        ("export.precisions", ["int8", "fp32", "int8"], "'int8'"),
        ("diagnose.text.temperatures", [1, 0.5, 1.0], "1"),
        ("verify.sampling", [{"temperature": 1.0, "top_k": 0, "top_p": 1.0}] * 2, "'temperature'"),
    ],
)
def test_what_comes_twice_in_a_list_is_named(
    raw: dict[str, Any], write: Write, place: str, value: object, twice: str
) -> None:
    set_at(raw, place, value)
    with pytest.raises(InputError, match=rf"'{place}' is .*{twice}.* is there twice$"):
        config.load(write(raw))


@pytest.mark.parametrize(
    ("place", "value", "near"),
    [
        ("fetch.source", "hbu", "hub"),
        ("tokenize.kind", "bpee", "bpe"),
        ("train.device", "cud", "cuda"),
        ("train.schedule.name", "cosin", "cosine"),
        ("train.optimizer.name", "adam", "adamw"),
    ],
)
def test_an_unknown_choice_is_named_with_the_nearest(
    raw: dict[str, Any], write: Write, place: str, value: str, near: str
) -> None:
    set_at(raw, place, value)
    with pytest.raises(InputError, match=rf"'{place}' is '{value}': .*\(did you mean '{near}'\?\)"):
        config.load(write(raw))


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("fetch.hub.revision", "main", "revision"),
        ("fetch.hub.preset", None, "name a preset, or an id and its revision"),
        ("fetch.files.split", "explicit", "needs validation_path and test_path"),
        ("fetch.files.val_fraction", 0.97, "leave nothing to train on"),
    ],
)
def test_values_that_do_not_go_together_are_named(
    raw: dict[str, Any], write: Write, place: str, value: object, says: str
) -> None:
    set_at(raw, place, value)
    with pytest.raises(InputError, match=says):
        config.load(write(raw))


@pytest.mark.parametrize("place", ["variants", "variants.gru.cell", "variants.gru.hidden_size"])
def test_a_missing_key_is_named(raw: dict[str, Any], write: Write, place: str) -> None:
    *parents, key = place.split(".")
    holder = raw
    for parent in parents:
        holder = holder[parent]
    del holder[key]
    with pytest.raises(InputError, match=rf"'{place}' is missing"):
        config.load(write(raw))


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file: run this from the folder that holds params"):
        config.load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"train: [1, 2", "not YAML"),
        (b"train:\n\tseed: 1\n", "not YAML"),
        (b"train: \xff\xfe\n", "not YAML"),
        (b"", "holds no sections"),
        (b"- train\n", "holds no sections"),
        (b"just words\n", "holds no sections"),
        (b"a: " + b"[" * 5000, "nested too deeply"),
        (b"a: " + b"9" * 5000 + b"\n", "not YAML"),
    ],
)
def test_what_is_not_yaml_or_holds_no_sections_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        config.load(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            "report:\n  seed: 1\n  top_k: 0\n  seed: 2\n",
            "line 4: 'seed' stands a second time; it stands in line 2 already",
        ),
        ("fetch: 1\n'fetch': 2\n", "line 2: 'fetch' stands a second time; it stands in line 1 already"),
        ("variants: {gru: {layers: 1, layers: 2}}\n", "line 1: 'layers' stands a second time"),
    ],
)
def test_a_key_that_stands_twice_is_named_with_its_line(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=f"params.yaml: {says}"):
        config.load(path)


def test_what_a_merge_key_brings_may_be_said_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("one: &one {seed: 1, top_k: 0}\nother: {<<: *one, seed: 2}\n", encoding="utf-8")
    assert load_yaml(path)["other"] == {"seed": 2, "top_k": 0}


def test_every_message_is_one_line_on_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """YAML's own messages have several."""
    path = tmp_path / "params.yaml"
    path.write_text("train: [1, 2", encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        exit_cleanly(lambda: config.load(path) and None)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_params_cannot_be_changed_after_reading(raw: dict[str, Any], write: Write) -> None:
    params = config.load(write(raw))
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        params.train.seed = 2  # type: ignore[misc]


def test_an_exponent_without_a_dot_is_a_number(raw: dict[str, Any], write: Write) -> None:
    """YAML 1.1 reads `1e-2` as a string, and people write it."""
    path = write(raw)
    path.write_text(path.read_text().replace("weight_decay: 0.3", "weight_decay: 1e-2"))
    assert "1e-2" in path.read_text()
    assert config.load(path).train.optimizer.weight_decay == 0.01


def test_an_unknown_variant_is_named_with_the_nearest(raw: dict[str, Any], write: Write) -> None:
    params = config.load(write(raw))
    with pytest.raises(InputError, match=r"no variant 'grru': did you mean 'gru'\?"):
        params.variant("grru")


def test_what_only_one_variant_has_is_handed_to_it(raw: dict[str, Any], write: Write) -> None:
    params = config.load(write(raw))
    assert params.variant("rnn").own == {"nonlinearity": "relu"}
    assert params.variant("gru").own == {}
