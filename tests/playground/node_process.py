"""A node process that runs the page's own code."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any


class Node:
    """The page's own TypeScript, asked from Python."""

    def __init__(self, node: str) -> None:
        self.process = subprocess.Popen(
            [node, "--no-warnings", str(Path(__file__).with_name("answers.ts"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def ask(self, what: str, *given: Any) -> Any:
        """The answer; ValueError with the message where the page would refuse the input."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([what, *given]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"node ended with status {self.process.wait()}"
        answer = json.loads(line)
        if "refused" in answer:
            raise ValueError(answer["refused"])
        return answer["answer"]
