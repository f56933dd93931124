"""Stage plan: what trains and scores each variant, but for what is tuned.

Inputs:  compare/params.yaml, params.yaml, zoo.yaml, the code that shapes weights
Outputs: data/compare/<name>/plan/<variant>.json
Command: python compare/plan.py
"""

from __future__ import annotations

from recurlm.compare.settings import project, write_plans
from recurlm.errors import exit_cleanly

if __name__ == "__main__":
    exit_cleanly(lambda: write_plans(*project()))
