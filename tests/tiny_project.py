"""A tiny project: a clone of this checkout with a tiny corpus, in which the real DAG runs in a minute or two."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from configs import CHECKOUT, merged

TINY_VARIANT = {"embedding_size": 16, "hidden_size": 16, "layers": 1}

# What the tiny project changes in params.yaml; the rest of the real file stands. Of the variants, one that reads from
# the left and one that reads both sides: the others differ in their equations alone, which have tests of their own.
TINY: dict[str, Any] = {
    "fetch": {"source": "files", "files": {"val_fraction": 0.2, "test_fraction": 0.2}},
    "tokenize": {"kind": "bpe", "vocab_size": 300},
    "train": {
        "data": {"epochs": 1, "batch_size": 4, "sequence_length": 32},
        "evaluation": {"num_evals": 2},
    },
    "evaluate": {"batch_size": 4, "window_tokens": 64, "context_tokens": 32},
    "verify": {
        "num_tokens": 40,
        "sampling": [{"temperature": 0.7, "top_k": 0, "top_p": 1.0}, {"temperature": 1.2, "top_k": 20, "top_p": 0.9}],
        "speed": {"training_tokens": [4, 16], "generated_tokens": [4, 16], "repeats": 1},
    },
    "diagnose": {
        "bootstrap_samples": 50,
        "cold_window_tokens": 32,
        "cache": {"test_tokens": 500, "validation_tokens": 300, "window": [50], "lambda": [0.1, 0.3]},
        "dynamic": {"test_tokens": 300, "validation_tokens": 200, "statistics_tokens": 256},
        "gradients": {"windows": 4, "reach": 20},
        "context": {"windows": 8, "tokens": 32, "cut": [1, 5, 20], "beyond": [5]},
        "gates": {"windows": 4, "tokens": 32},
        "overfitting": {"train_tokens": 1000, "validation_tokens": 500, "epochs": 2, "hidden_size": 16, "num_evals": 2},
        "text": {"temperatures": [0.8, 1.3], "num_samples": 3, "num_tokens": 30, "prompt_tokens": 4},
    },
    "report": {"prompt": "KING.\n", "max_new_tokens": 40},
    "variants": {"gru": TINY_VARIANT, "bilstm": TINY_VARIANT},
}


class Project:
    """A clone to run commands in, with a home and a temporary folder that were empty before."""

    def __init__(self, folder: Path, outside: Path) -> None:
        self.folder = folder
        self.home = outside / "home"
        self.temporary = outside / "tmp"
        self.home.mkdir(parents=True, exist_ok=True)
        self.temporary.mkdir(exist_ok=True)
        foreign = ("DVC_", "GIT_", "HF_", "MAKE", "MFLAGS", "MLFLOW_", "XDG_", "VIRTUAL_ENV")
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder / "src"),
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "OMP_NUM_THREADS": "1",  # models this small only lose by a second thread
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "a test",
            "GIT_AUTHOR_EMAIL": "test@localhost",
            "GIT_COMMITTER_NAME": "a test",
            "GIT_COMMITTER_EMAIL": "test@localhost",
        }

    def run(self, *command: str, largest_file: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command in the clone; `largest_file` bytes is where the disk seems full to it."""

        def limit() -> None:
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, preexec_fn=limit
        )

    def keep_notes_inside(self) -> None:
        """What `make` sets: DVC's own notes about files stay in the checkout."""
        text = f"[core]\n    site_cache_dir = {self.folder / '.cache/dvc'}\n"
        (self.folder / ".dvc/config.local").write_text(text, encoding="utf-8")

    def git(self, *arguments: str) -> str:
        result = self.run("git", *arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def repro(self, *arguments: str) -> set[str]:
        """`dvc repro`; the names of the stages that it ran."""
        return self.stages_run_by("dvc", "repro", *arguments)

    def stages_run_by(self, *command: str) -> set[str]:
        """The names of the stages that a command of DVC ran; it must succeed."""
        result = self.run(*command)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-5000:]
        return set(re.findall(r"^Running stage '(.+)':", result.stdout, re.MULTILINE))

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "as it stands")

    def read_params(self) -> dict[str, Any]:
        params: dict[str, Any] = yaml.safe_load((self.folder / "params.yaml").read_text(encoding="utf-8"))
        return params

    def write_params(self, params: dict[str, Any]) -> None:
        text = yaml.safe_dump(params, sort_keys=False, allow_unicode=True)
        (self.folder / "params.yaml").write_text(text, encoding="utf-8")

    def set_params(self, changes: dict[str, Any]) -> None:
        """Change values in params.yaml, and leave the others."""
        self.write_params(merged(self.read_params(), changes))

    def copy(self, target: Path) -> Project:
        """The same project elsewhere, with its results and DVC's cache, without what a machine keeps for itself."""
        leave = shutil.ignore_patterns(".cache", ".mlflow", "__pycache__")
        shutil.copytree(self.folder, target / "project", ignore=leave)
        project = Project(target / "project", target / "outside")
        project.keep_notes_inside()
        return project


def tiny_play(number: int, speeches: int = 40) -> str:
    """One document of made-up verse; the same number gives the same text."""
    draw = random.Random(number)
    nouns = ["king", "night", "sword", "sea", "crown", "rose", "naïve fool", "ghost", "storm", "queen"]
    verbs = ["loves", "fears", "keeps", "breaks", "sees", "follows"]
    speech = "{}.\nThe {} {} the {},\nand no {} {} it.\n\n"
    return "".join(
        speech.format(
            draw.choice(["KING", "QUEEN", "FOOL"]),
            draw.choice(nouns),
            draw.choice(verbs),
            draw.choice(nouns),
            draw.choice(nouns),
            draw.choice(verbs),
        )
        for _ in range(speeches)
    )


def write_tiny_corpus(folder: Path, plays: int = 10) -> None:
    """Text files of about 2 KB each."""
    folder.mkdir(parents=True)
    for number in range(plays):
        (folder / f"play_{number}.txt").write_text(tiny_play(number), encoding="utf-8")


def clone_of_this_checkout(root: Path) -> Project:
    """The files of this checkout as they stand, committed or not, with the tiny corpus and params; nothing ran."""
    project = Project(root / "project", root / "outside")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.split("\0"):
        # The results of the real run stay behind; a file that is listed but deleted has nothing to copy.
        if (CHECKOUT / name).is_file() and name != "dvc.lock" and not name.startswith("data/"):
            (project.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, project.folder / name)
    write_tiny_corpus(project.folder / "my_text")
    params = project.read_params()
    params["variants"] = {name: params["variants"][name] for name in TINY["variants"]}
    project.write_params(merged(params, TINY))
    project.git("init", "--quiet")
    project.commit()
    project.keep_notes_inside()
    return project
