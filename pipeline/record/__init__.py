"""The record: every planned image has exactly one row in a run, even when processes die.

An image that is tried again is planned again, for one run: then its newest row counts.

listed       compares the images that a command names with the planned images
plan         says which image belongs to which shard, in generations that never change
generations  the format of these generations
shards       says which shards exist; each is created once, whole
inspection   checks one shard against the plan
committer    collects result rows, in any order, and writes them as shards
manifest     describes the shards of a run, after checking them against the plan
checks       refuses a lost plan and damaged shards before a run continues; moves damaged shards away
rebuild      makes a lost plan again from the shards; planned_shards reads them
retries      chooses the images that are tried again
newest       counts the rows that newer rows of the same images replace
run_format   keeps the columns and the version that a run began with
"""

from pipeline.record.shards import (
    Shard,
    make_run_id,
    missing_shards,
    open_shard,
    run_file_uri,
    scored_uri,
    shard_uri,
)

__all__ = [
    "Shard",
    "run_file_uri",
    "make_run_id",
    "open_shard",
    "scored_uri",
    "shard_uri",
    "missing_shards",
]
