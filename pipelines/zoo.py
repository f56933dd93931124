"""Copies blocks of zoo.yaml into params.yaml, under `variants`: from then on they are part of the pipeline.

Inputs:  zoo.yaml, params.yaml
Outputs: params.yaml; a variant that it holds already stays as it is
Command: python pipelines/zoo.py mamba2 kda && dvc repro    # or: make zoo VARIANTS="mamba2 kda"
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recurlm.errors import exit_cleanly
from recurlm.zoo import add_variants


def main() -> None:
    parser = argparse.ArgumentParser(prog="python pipelines/zoo.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("variants", nargs="+", help="names of blocks of zoo.yaml")
    added = add_variants(parser.parse_args().variants, Path("zoo.yaml"), Path("params.yaml"))
    print(f"params.yaml: added {', '.join(added)}" if added else "params.yaml: nothing new")


if __name__ == "__main__":
    exit_cleanly(main)
