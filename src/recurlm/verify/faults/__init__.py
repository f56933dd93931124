"""Faults that `verify` must catch, planted in copies of bundles: `python -m recurlm.verify.faults`."""
