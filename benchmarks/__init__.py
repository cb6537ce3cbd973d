"""The tasks of `jobs/benchmark.py`, a module each, and what they share."""
