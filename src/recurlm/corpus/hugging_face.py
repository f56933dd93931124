"""Hugging Face `datasets`, with its state inside the checkout: everyone else imports the package from here.

Hugging Face reads its environment once, while it is imported. What a person has set themselves stays as it is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# The stages run in the folder that holds params.yaml.
os.environ.setdefault("HF_HOME", str(Path.cwd() / ".cache" / "huggingface"))
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Bad input gets one line, and that is ours.
os.environ.setdefault("DATASETS_VERBOSITY", "critical")
os.environ.setdefault("HF_HUB_VERBOSITY", "critical")
if not sys.stderr.isatty():
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# Reading text needs no torch, and importing it takes longer than the default fetch.
os.environ.setdefault("USE_TORCH", "0")

import datasets
import huggingface_hub

__all__ = ["datasets", "huggingface_hub"]
