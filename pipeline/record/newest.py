"""Counts the newest row of each image, where an image has rows in several shards.

An image that changed, or that was tried again, has a row in each of several generations. The row of the
highest generation is its newest. A shard that holds such older rows says how many, by status
(`Shard.superseded`), so that counts of a run are counts of images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from pipeline.record.listed import ListedImages
from pipeline.record.plan import Plan
from pipeline.record.shards import Shard, open_shard, shard_uri
from pipeline.runtime.prefetch import in_threads
from pipeline.schema import SCORED, read_columns


def count_superseded(
    shards: Sequence[Shard], *, listed: ListedImages, plan: Plan, run_id: str
) -> Sequence[Shard]:
    """Set `superseded` of the shards of a run. Only shards where the number has changed are read.

    Args:
        shards: all shards of the run that exist.
        listed: knows what is planned for the run (`plan.add_planned_images`).
        plan: the plan under the output of the run.
        run_id: the run.
    """
    generations = [one for one in plan.generations if one.is_for(run_id)]
    if len(generations) < 2:
        return shards
    counts = listed.superseded([shard.shard for shard in shards], generations[1].first_shard)
    changed = {
        shard.shard: listed.superseded_images(shard.shard)
        for shard in shards
        if counts.get(shard.shard, 0) != sum(shard.superseded.values())
    }

    def count(shard: int) -> dict[str, int]:
        with open_shard(shard_uri(plan.output, run_id, shard)) as (file, _, _):
            rows = read_columns(file, [SCORED.field("image_uri"), SCORED.field("status")])
        status = dict(
            zip(
                rows["image_uri"].to_pylist(),
                rows["status"].cast(pa.string()).to_pylist(),
                strict=True,
            )
        )
        return dict(Counter(status[uri] for uri in changed[shard]).most_common())

    counted = dict(zip(changed, in_threads(count, changed), strict=True))
    return [
        replace(shard, superseded=counted[shard.shard]) if shard.shard in counted else shard
        for shard in shards
    ]
