"""The one shell around every recurrence: embed → recurrence → decode."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float, Int
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from recurlm.config import ModelConfig
from recurlm.errors import InputError, nearest
from recurlm.storage import check_sha256, read_json, sha256_of, write_json
from recurlm.variants import REGISTRY
from recurlm.variants.base import LockedDropout, Recurrence, State
from recurlm.variants.compose import Bidirectional, Block, Stack

# torch makes this folder once an optimizer or the ONNX exporter imports its compiler; the default lies in /tmp.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path.cwd() / ".cache" / "torchinductor"))

LARGEST = 2**20  # of a cell's own whole numbers, as of hidden_size


class LanguageModel(nn.Module):
    """Tokens in, logits over the vocabulary out.

    Tied weights (Press & Wolf 2017; Inan et al. 2017) let the embedding table decode as well; where the recurrence's
    output has another size than the embedding, a projection stands between.
    """

    def __init__(
        self,
        recurrence: Recurrence,
        vocab_size: int,
        embedding_size: int,
        tie_weights: bool = True,
        input_dropout: float = 0.0,
        output_dropout: float = 0.0,
        embed_dropout: float = 0.0,
        residual: bool = False,
    ) -> None:
        """Dropout acts in training only: `embed_dropout` hides whole tokens, the others features.

        With `residual`, the input embedding reaches the output; where that decodes with the same table, a fresh model
        would predict the token that it has just read, at a loss of about √width. So a projection, zero at first, stands
        between: a fresh model finds every token equally likely.
        """
        super().__init__()
        self.recurrence = recurrence
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        self.input_dropout, self.output_dropout = LockedDropout(input_dropout), LockedDropout(output_dropout)
        self.embed_dropout = embed_dropout
        width = embedding_size if tie_weights else recurrence.output_size
        from_zero = residual and tie_weights
        direct = width == recurrence.output_size and not from_zero
        self.projection = nn.Identity() if direct else nn.Linear(recurrence.output_size, width)
        self.decoder = nn.Linear(width, vocab_size)
        nn.init.normal_(self.embedding.weight, std=embedding_size**-0.5)
        nn.init.zeros_(self.decoder.bias)
        if tie_weights:
            self.decoder.weight = self.embedding.weight
        if from_zero:
            for parameter in self.projection.parameters():
                nn.init.zeros_(parameter)

    @property
    def vocab_size(self) -> int:
        return self.embedding.num_embeddings

    def initial_state(self, batch_size: int) -> State:
        return self.recurrence.initial_state(batch_size)

    def features(
        self, tokens: Int[Tensor, "batch time"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time width"], State]:
        """What the decoder reads."""
        y, state = self.read(tokens, state, reset)
        return self.projection(self.output_dropout(y)), state

    def read(
        self, tokens: Int[Tensor, "batch time"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        """The recurrence's output, before dropout and projection."""
        return self.recurrence(self.input_dropout(self.embed(tokens)), state, reset)  # type: ignore[no-any-return]

    def forward(
        self, tokens: Int[Tensor, "batch time"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time vocabulary"], State]:
        """Logits of a chunk of tokens. Where `reset[b, t]`, row b starts from a zero state before token t."""
        y, state = self.features(tokens, state, reset)
        return self.decoder(y), state

    def step(self, token: Int[Tensor, "batch"], state: State) -> tuple[Float[Tensor, "batch vocabulary"], State]:
        """Read one token, in plain tensor operations: the graph that ONNX gets."""
        y, state = self.recurrence.step(self.embed(token), state)
        return self.decode(y), state

    def embed(self, tokens: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch embedding"]:
        """What the recurrence reads: rows of the table, brought to a variance of 1.

        A row's numbers are small, so that logits begin small where the table decodes as well. As an input of a
        recurrence they would be next to nothing (Vaswani et al. 2017, section 3.4, do the same).
        """
        rows: Tensor = self.embedding(tokens)
        if self.training and self.embed_dropout:
            # A token is hidden wherever it stands (Gal & Ghahramani 2016); as an output it stays.
            kept = torch.rand(self.vocab_size, device=rows.device) >= self.embed_dropout
            rows = rows * (kept / (1 - self.embed_dropout))[tokens][..., None]
        return rows * math.sqrt(self.embedding.embedding_dim)

    def decode(self, y: Float[Tensor, "*batch output"]) -> Float[Tensor, "*batch vocabulary"]:
        """What the recurrence says → logits."""
        logits: Tensor = self.decoder(self.projection(y))
        return logits


def build(name: str, config: ModelConfig, vocab_size: int) -> LanguageModel:
    """The model of a variant of params.yaml, with fresh weights from torch's random state.

    Raises:
        InputError: the registry has no such cell, its constructor no such parameter, or sizes do not fit together.
    """
    if config.cell not in REGISTRY:
        raise InputError(f"params.yaml: variants.{name}.cell is '{config.cell}': {nearest(config.cell, REGISTRY)}")
    own = _own_parameters(name, config)
    residual = config.block == "residual"
    if not residual and (config.conv or config.mlp_ratio):
        raise InputError(f"params.yaml: 'variants.{name}': conv and mlp_ratio need 'block: residual'")
    if config.conv == 1:
        raise InputError(f"params.yaml: 'variants.{name}.conv' is 1: a kernel of one element mixes nothing; 0 is none")

    def layer(input_size: int) -> Recurrence:
        try:
            cell = REGISTRY[config.cell](input_size, config.hidden_size, **own)
        except ValueError as error:
            raise InputError(f"params.yaml: 'variants.{name}': {error}") from None
        return Block(cell, config.embedding_size, config.conv, config.mlp_ratio) if residual else cell

    def stack() -> Recurrence:
        layers: list[Recurrence] = []
        for _ in range(config.layers):
            layers.append(layer(layers[-1].output_size if layers else config.embedding_size))
        return Stack(layers, config.dropout, config.concat_layers, norm=residual)

    recurrence = Bidirectional(stack(), stack()) if config.bidirectional else stack()
    if config.weight_drop and not recurrence.recurrent_matrices():
        drop = f"'variants.{name}.weight_drop' is {config.weight_drop:g}"
        raise InputError(f"params.yaml: {drop}, and no matrix of {config.cell} multiplies its state: set it to 0")
    return LanguageModel(
        recurrence,
        vocab_size,
        config.embedding_size,
        config.tie_weights,
        config.dropout if config.input_dropout is None else config.input_dropout,
        config.dropout if config.output_dropout is None else config.output_dropout,
        config.embed_dropout,
        residual,
    )


def _own_parameters(name: str, config: ModelConfig) -> dict[str, Any]:
    """The keys that the cell's constructor knows beyond those of every variant, checked against its signature."""
    cell = REGISTRY[config.cell]
    signature = inspect.signature(cell)
    annotations = inspect.get_annotations(cell.__init__, eval_str=True)
    known = [key for key in signature.parameters if key not in {"input_size", "hidden_size"}]
    for key in known:
        if signature.parameters[key].default is inspect.Parameter.empty and key not in config.own:
            raise InputError(f"params.yaml: 'variants.{name}.{key}' is missing")
    for key in config.own:
        if key not in known:
            near = nearest(key, [*known, *ModelConfig.model_fields])
            raise InputError(f"params.yaml: unknown parameter 'variants.{name}.{key}': {near}")
    return {
        key: _fitting(f"variants.{name}.{key}", value, annotations[key], signature.parameters[key].default)
        for key, value in config.own.items()
    }


def _fitting(key: str, value: Any, annotation: Any, default: Any) -> Any:
    """A value of the constructor's type; a whole number is from 1 on, or from the default on where that is less."""
    try:
        fitting = TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError as error:
        choices = [choice for choice in get_args(annotation) if isinstance(choice, str)]
        hint = f" ({nearest(value, choices)})" if choices and isinstance(value, str) else ""
        raise InputError(f"params.yaml: '{key}' is {value!r}: {error.errors()[0]['msg']}{hint}") from None
    least = min(default, 1) if isinstance(default, int) else 1
    if type(fitting) is int and not least <= fitting <= LARGEST:
        raise InputError(f"params.yaml: '{key}' is {value}: it may be from {least} to {LARGEST}")
    return fitting


def count_parameters(model: nn.Module) -> int:
    """How many numbers are learned; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def save(
    folder: Path, model: LanguageModel, name: str, config: ModelConfig, origin: Mapping[str, Any] | None = None
) -> None:
    """Write `model.safetensors` and `model.json` into an existing folder; `origin` is what model.json says beyond."""
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    if model.decoder.weight is model.embedding.weight:
        del weights["decoder.weight"]  # tied: safetensors holds it once
    # Python's own write, so that a full disk is an OSError like everywhere else.
    path = folder / "model.safetensors"
    path.write_bytes(to_bytes(weights))
    description = {
        "variant": name,
        "vocab_size": model.vocab_size,
        "parameters": count_parameters(model),
        "gates": model.recurrence.gates,
        "config": config.model_dump(),
        "sha256": sha256_of(path),
    }
    write_json(folder / "model.json", description | dict(origin or {}))


def load(folder: Path) -> LanguageModel:
    """Read a model that `save` wrote, in evaluation mode, in fp32, on the CPU.

    Raises:
        InputError: a file is missing or corrupted, or the weights do not fit the description.
    """
    description = read_json(folder / "model.json")
    model = build(description["variant"], ModelConfig(**description["config"]), description["vocab_size"])
    path = folder / "model.safetensors"
    check_sha256(path, description["sha256"])
    weights = load_file(path)
    if "decoder.weight" not in weights:
        weights["decoder.weight"] = weights["embedding.weight"]
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{path}: the weights do not fit {folder / 'model.json'} ({error})") from None
    return model.eval().requires_grad_(False)


def best_device(wanted: str) -> torch.device:
    """`auto` takes CUDA where there is one.

    Raises:
        InputError: CUDA was asked for and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("params.yaml: train.device is 'cuda', and this machine has none: use 'auto' or 'cpu'")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")
