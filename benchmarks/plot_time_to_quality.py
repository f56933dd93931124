"""Draws curves that time_to_quality.py kept: loss against seconds.

python benchmarks/plot_time_to_quality.py benchmarks/results/*.json --to docs/plots/time_to_quality.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import altair

from recurlm.errors import InputError, exit_cleanly
from recurlm.storage import read_json

PROTOCOLS = {"loss_cold_256": "windows of 256 from a zero state", "loss_streamed": "streamed"}


def rows(path: Path) -> list[dict[str, object]]:
    """One row a point and protocol."""
    kept = read_json(path)
    if "loss_streamed" not in kept:
        raise InputError(f"{path}: no figures of time_to_quality.py")
    mixture = f", mixture of {kept['models']}" if "models" in kept else ""
    run = f"{kept['budget']:g} s, {kept['parameters'] / 1e6:.2g} M parameters{mixture}"
    return [
        {"seconds": point["seconds"], "loss": point[name], "protocol": told, "run": run}
        for point in kept.get("points", [kept])  # a mixture has no curve: its models are scored in the end
        for name, told in PROTOCOLS.items()
        if name in point
    ]


def chart(paths: list[Path], goal: float | None) -> altair.LayerChart:
    data = altair.Data(values=[row for path in paths for row in rows(path)])
    points = altair.Chart(data).encode(
        x=altair.X("seconds:Q", title="seconds since the process began", scale=altair.Scale(type="log", nice=False)),
        y=altair.Y("loss:Q", title="validation loss, nats per character", scale=altair.Scale(zero=False)),
        color=altair.Color("run:N", title="run", sort=None, legend=altair.Legend(labelLimit=0)),
        detail="protocol:N",
    )
    # Marks of their own: points on the line itself would leave the legend of its dashes empty.
    dashes = altair.StrokeDash("protocol:N", title="protocol", legend=altair.Legend(symbolStrokeColor="black"))
    layers = [points.mark_line().encode(strokeDash=dashes), points.mark_point(filled=True)]
    if goal is not None:
        layers.append(
            altair.Chart(altair.Data(values=[{"loss": goal}]))
            .mark_rule(strokeDash=[2, 2], color="gray")
            .encode(y="loss:Q")
        )
    return altair.layer(*layers).properties(width=560, height=320)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", nargs="+", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--goal", type=float, help="a loss to draw a line at")
    arguments = parser.parse_args()
    arguments.to.parent.mkdir(parents=True, exist_ok=True)
    chart(arguments.curves, arguments.goal).save(str(arguments.to), ppi=96)


if __name__ == "__main__":
    exit_cleanly(main)
