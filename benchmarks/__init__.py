"""The tasks of `jobs/benchmark.py`, one module each, and what several of them need."""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
OUTPUT = CHECKOUT / "benchmark-output"
"""The default folder of all benchmarks."""
