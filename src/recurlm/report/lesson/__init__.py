"""Fills docs/lesson.md with figures from data/metrics and data/timings."""
