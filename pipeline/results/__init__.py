"""A scored run as the jobs that read one see it: compact, report, export, evaluate."""
