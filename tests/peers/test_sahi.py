"""SAHI's sliced prediction with our detector: the benchmark runs, and both ways give the same boxes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import sahi
from benchmarks.config import SahiConfig
from tests.peers.environment import require_peers

pytestmark = pytest.mark.peers


def test_boxes_of_tiles_agree_with_those_of_sahi(rpn_checkpoint: Path, tmp_path: Path) -> None:
    require_peers()
    config = SahiConfig(
        checkpoint=str(rpn_checkpoint),
        tile=200,
        images=1,
        size=(300, 400),
        rounds=1,
        output=tmp_path,
    )
    sahi.run(config)
    header, _, row, total = (tmp_path / "sahi.md").read_text().splitlines()
    assert header.startswith("| image | tiles |")
    assert row.startswith("| 000000.jpg | 6 |")
    assert total.startswith("| all |")
    agreed = [float(share.strip(" %")) for share in row.split("|")[-3:-1]]
    assert min(agreed) > 80  # the rest are boxes at the edges of tiles, which SAHI keeps
