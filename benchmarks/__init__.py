"""The tasks of `jobs/benchmark.py`, one module each, and shared helpers."""
