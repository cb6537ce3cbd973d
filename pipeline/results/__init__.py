"""Reads scoring runs for the jobs compact, report, export and evaluate, and makes the parts of a report."""
