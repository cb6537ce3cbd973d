"""Two Ray nodes on this machine, of which one has a trouble that the other has not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault_proxy import Trouble
from tests.soak.images import drawn_images
from tests.soak.record import compare
from tests.soak.rounds import run_round
from tests.soak.site import node_key, open_site

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def test_a_part_of_the_plan_that_one_node_cannot_read_goes_to_the_other(tmp_path: Path) -> None:
    """The store denies it every part of the plan, for ever. One run of the command scores all images."""
    with open_site(tmp_path, 2) as site:
        images = site.put(drawn_images(30))
        denied = Trouble(
            fault="403", requests=1_000_000, access_key=node_key(1), key="/plans/parts/"
        )
        site.proxy.troubles = [denied]
        log = tmp_path / "job.log"
        with site.watch("out").watching() as watch:
            flags = site.flags("out", "--shard-size", "5", "--batch-size", "2")
            done = run_round(site.cluster, flags, killer=None, log=log)
        assert (done.runs, done.codes) == (1, {0: 1}), log.read_text()
        assert done.violations + watch.violations == [], log.read_text()
        assert compare(watch.rows(), images, {}).violations() == []
        assert site.proxy.troubled >= 1, "this node had no task"
