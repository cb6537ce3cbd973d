"""The promise under fire: rounds of one scoring command whose processes are killed and whose store fails.

    python -m tests.soak --rounds 10 --images 2000          (make soak)

A real S3 server behind `tests.fault_proxy`, a Ray cluster of two nodes, `jobs/score_bucket.py` as a user runs
it. Only what a user sees is looked at: exit codes and scored/. `tests/test_soak.py` is the short round.
"""
