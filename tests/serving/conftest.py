"""A server with a tiny model of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import Server
from tiny_bundles import TinyBundles

from recurlm.runtime import Generator


@pytest.fixture(scope="session")
def causal(bundles: TinyBundles) -> dict[str, Path]:
    """lstm, int8 and int4 (of it), gru, char (an rnn that knows some characters only), word."""
    return {
        "lstm": bundles("lstm"),
        "int8": bundles("lstm", precision="int8"),
        "int4": bundles("lstm", precision="int4"),
        "gru": bundles("gru"),
        "char": bundles("rnn", "char"),
        "word": bundles("rnn", "word"),
    }


@pytest.fixture(scope="session")
def server(bundles: TinyBundles, causal: dict[str, Path]) -> Iterator[Server]:
    """The causal models, and cloze (bilstm)."""
    models = {**causal, "cloze": bundles("bilstm")}
    options = [part for name, path in models.items() for part in ("--model", f"{name}={path}")]
    with Server(
        *options, "--max-tokens", "2000", "--max-prompt-tokens", "1000", "--max-body-bytes", "100000"
    ) as running:
        yield running


@pytest.fixture(scope="session")
def generators(causal: dict[str, Path]) -> dict[str, Generator]:
    """The causal models in this process."""
    return {name: Generator.from_bundle(folder) for name, folder in causal.items()}
