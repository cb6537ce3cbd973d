"""The record: every planned image has exactly one row in a run, whatever dies on the way.

listed       the images that a command names, beside those that are planned
plan         which image belongs to which shard, in generations that never change
shards       which shards exist: each is created once, whole
committer    result rows, in any order, become shards
manifest     what a run has written, checked against its plan
run_format   what a run began with, and keeps
"""

from pipeline.record.shards import (
    Shard,
    described_uri,
    done_shards,
    inspect,
    make_run_id,
    open_shard,
    scored_uri,
    shard_uri,
    to_do,
)

__all__ = [
    "Shard",
    "described_uri",
    "done_shards",
    "inspect",
    "make_run_id",
    "open_shard",
    "scored_uri",
    "shard_uri",
    "to_do",
]
