"""Settings and limits of a server. Nothing is imported here that `recurlm --help` would wait for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from recurlm.errors import InputError

# A request of so many tokens, read and generated, is a small one: none larger holds it up.
SMALL_TOKENS = 64
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _limit(default: int, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Limits:
    """Limits of one request, and of all together; those with a help text are options of `recurlm serve`.

    Raises:
        InputError: a limit is less than 1.
    """

    max_prompt_tokens: int = _limit(8192, "of one prompt, or of a text to score")
    max_tokens: int = _limit(4096, "of one completion")
    max_batch: int = _limit(64, "the largest batch of a model, and the most texts of one request")
    max_queue: int = _limit(256, "texts that may wait; beyond that the answer is 429")  # as many small ones beside them
    max_body_bytes: int = _limit(1 << 20, "of a request")
    max_connections: int = _limit(
        1000, "open at once; beyond that, who has waited longest without a request is dropped"
    )
    header_seconds: int = _limit(10, "for a request's headers to arrive")
    body_seconds: int = _limit(30, "for a request's body to arrive")
    fill_work: int = 50_000  # tokens read to fill a text: its own, times its masked words, times their lengths
    fill_reading: int = 500_000  # tokens read in fact, where tokens have to be sampled again

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value < 1:
                raise InputError(f"{each.name.replace('_', '-')} is {value}: 1 or more")


@dataclass(frozen=True)
class Settings:
    """The bundles to serve, the address, and the API key.

    Raises:
        InputError: a name cannot stand in an address, or the API key is empty or cannot stand in a header.
    """

    bundles: dict[str, Path]  # by the name that requests use
    host: str = "127.0.0.1"
    port: int = 8000  # 0: any that is free
    api_key: str | None = None
    threads: int | None = None  # of one call
    grace: int = 30  # seconds for running requests to finish after SIGTERM
    access_log: bool = False
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        for name in self.bundles:
            if not NAME.fullmatch(name):
                raise InputError(f"a model cannot be named '{name}': letters, digits, '.', '_' and '-' only")
        if self.api_key is not None and not re.fullmatch("[!-~]+", self.api_key):
            raise InputError("the API key is empty, or has blanks or characters that are not ASCII")
        if not 0 <= self.port <= 65535:
            raise InputError(f"port is {self.port}: 0 (any that is free) to 65535")
        if self.grace < 0:
            raise InputError(f"grace is {self.grace}: 0 or more seconds")
