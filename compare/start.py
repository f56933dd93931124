"""`make compare`: write what is asked for into compare/params.yaml, say how long it takes, run it, show the table.

    python compare/start.py
    python compare/start.py --text 'path/to/*.txt' --variants lstm gru mamba2 --trials 6 --seeds 2

What is not given stays as compare/params.yaml has it: the same command again goes on where the last one was stopped.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from recurlm.compare import own_files, settings
from recurlm.compare.runs import Texts
from recurlm.compare.speed import estimate
from recurlm.errors import exit_cleanly
from recurlm.stage import make_deterministic
from recurlm.storage import whole_file
from recurlm.training.estimate import duration

PIPELINE, NULL = "compare/dvc.yaml", "tag:yaml.org,2002:null"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", metavar="GLOB", help="your own .txt, .jsonl or .parquet files")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="blocks of params.yaml or zoo.yaml")
    parser.add_argument("--trials", type=int, metavar="N", help="of each variant")
    parser.add_argument("--seeds", type=int, metavar="N", help="how many: 1, 2, 3, …")
    arguments = parser.parse_args()
    _edit(arguments)
    compare, params = settings.project()
    _dvc(*(["--force", "--single-item"] if own_files.changed(compare, params) else []), f"{PIPELINE}:text")
    _dvc(f"{PIPELINE}:plan")
    plans = [settings.read_plan(compare, name) for name in compare.variants]
    make_deterministic(plans[0].train.machine.threads)
    seconds = estimate(compare, plans, Texts(compare.folder / "tokens"))
    parts = ", ".join(f"{name} {duration(value)}" for name, value in seconds.items())
    print(
        f"compare: about {duration(sum(seconds.values()))} for all, what is done already included: {parts}", flush=True
    )
    _dvc(PIPELINE)
    print((compare.folder / "table.md").read_text(encoding="utf-8"))
    print(f"{compare.folder.parent / 'index.html'}: the page; {compare.folder / 'results.json'}: all numbers")


def _edit(arguments: argparse.Namespace) -> None:
    """Replace values in compare/params.yaml and leave its comments; refuse what does not fit before it is written."""
    yaml, file = YAML(), settings.FILE
    yaml.preserve_quotes, yaml.width = True, 4096
    yaml.representer.add_representer(type(None), lambda writer, _: writer.represent_scalar(NULL, "null"))
    content = yaml.load(file.read_text(encoding="utf-8"))
    if arguments.text:
        content["name"], content["corpus"]["path"] = "own", arguments.text
    if arguments.variants:
        content["variants"][:] = arguments.variants
    if arguments.trials is not None:
        content["tune"]["trials"] = arguments.trials
    if arguments.seeds is not None:
        content["train"]["seeds"][:] = range(1, arguments.seeds + 1)
    with whole_file(file) as partial:
        yaml.dump(content, partial)
        settings.load(file=partial)


def _dvc(*arguments: str) -> None:
    """Run `dvc repro`, and end as it does where it fails. Ctrl-C is for its stage, which saves what it has."""
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        done = subprocess.run([str(Path(sys.executable).parent / "dvc"), "repro", *arguments])
    finally:
        signal.signal(signal.SIGINT, before)
    if done.returncode:
        sys.exit(done.returncode if done.returncode > 0 else 128 - done.returncode)  # as a shell reports a signal


if __name__ == "__main__":
    exit_cleanly(main)
