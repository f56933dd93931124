"""The table of docs/family.md: sizes, states and speed of params.yaml's and zoo.yaml's variants.

Speed is of benchmarks/results/zoo_throughput.json and zoo_generation.json, where they are there.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from recurlm import config
from recurlm.config import ModelConfig
from recurlm.model import build, count_parameters
from recurlm.strict_yaml import load_yaml

TITLES = (
    "variant", "width × layers", "parameters", "state of a layer", "state, KB",
    "share of the product", "forward / step", "fp32, µs a token", "fp32, tokens/s",
    "int8, µs a token", "int8, tokens/s",
)  # fmt: skip


def table(root: Path) -> str:
    """A row a variant: its sizes with the vocabulary of params.yaml, what it carries from token to token, its speed."""
    params = config.load(root / "params.yaml")
    zoo = {
        name: ModelConfig(**(params.model | block)) for name, block in load_yaml(root / "zoo.yaml")["variants"].items()
    }
    results = [root / "benchmarks/results" / name for name in ("zoo_throughput.json", "zoo_generation.json")]
    measured = [json.loads(path.read_bytes()) if path.is_file() else {} for path in results]
    trained, generated = measured[0].get("cells", {}), measured[1].get("variants", {})
    rows: list[tuple[str, ...]] = [TITLES, ("---", "---", "--:", "---", *["--:"] * (len(TITLES) - 4))]
    for name, variant in (params.variants | zoo).items():
        model = build(name, variant, params.tokenize.vocab_size)
        spec = model.recurrence.state_spec
        parts = (f"{key.replace('layer0.', '')}: {'×'.join(map(str, spec[key]))}" for key in spec if "layer0" in key)
        sizes = (
            name,
            f"{variant.hidden_size} × {variant.layers}",
            f"{count_parameters(model):,}",
            ", ".join(parts),
            f"{sum(map(math.prod, spec.values())) / 250:.1f}",
        )
        rows.append(sizes + speed(trained.get(name), generated.get(name)))
    links = ", ".join(f"[{path.name}](../benchmarks/results/{path.name})" for path in results if path.is_file())
    return "".join(f"| {' | '.join(row)} |\n" for row in rows) + (f"\nFigures of speed: {links}.\n" if links else "")


def speed(trained: dict[str, float] | None, generated: dict[str, float] | None) -> tuple[str, ...]:
    """The table's columns of what was measured of one variant, and a dash for what was not."""
    training = (f"{trained['matmul_fraction']:.0%}", f"{trained['step_over_forward']:.0f}") if trained else ("–", "–")
    if not generated:
        return *training, *"––––"
    times = (generated[f"{precision}_microseconds_per_token"] for precision in ("fp32", "int8"))
    return *training, *(figure for time in times for figure in (f"{time:.0f}", f"{1e6 / time:,.0f}"))
