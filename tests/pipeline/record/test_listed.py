"""Questions about the planned images that DuckDB answers."""

from __future__ import annotations

from contextlib import closing

import pyarrow as pa

from pipeline.record.listed import ListedImages
from pipeline.schema import PLAN


def planned(*rows: tuple[str, str, int]) -> pa.Table:
    made = [{"image_uri": uri, "etag": tag, "shard": shard} for uri, tag, shard in rows]
    return pa.Table.from_pylist(made, schema=PLAN)


def test_a_row_is_replaced_if_a_later_shard_has_another_version_of_its_image() -> None:
    with closing(ListedImages()) as listed:
        listed.add_planned(planned(("changed", "1", 0), ("alone", "1", 0), ("tried again", "1", 0)))
        listed.add_planned(planned(("changed", "2", 1), ("tried again", "1", 1)))
        rows = planned(("changed", "1", 0), ("alone", "1", 0), ("tried again", "1", 0))
        assert listed.replaced(rows) == [True, False, False]
        assert listed.replaced(planned(("changed", "2", 1))) == [False]
