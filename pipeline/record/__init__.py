"""The record: every planned image has exactly one row in a run, even when processes die.

listed       compares the images that a command names with the planned images
plan         says which image belongs to which shard, in generations that never change
shards       says which shards exist; each is created once, whole
committer    collects result rows, in any order, and writes them as shards
manifest     describes the shards of a run, after checking them against the plan
run_format   keeps the columns and the version that a run began with
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
