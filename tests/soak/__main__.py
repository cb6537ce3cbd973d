"""python -m tests.soak --rounds 10 --images 2000 --seed 0

Needs real images beside the checkout (see `tests/conftest.py`). A line a round; exit code 1 where one row
was missing, twice, or not as in an undisturbed run, where a shard changed, or where the command exited in a
way that it promises not to.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from demo.processes import end_on_signals
from tests.soak.images import real_images
from tests.soak.killers import PAUSE_S, RandomKiller
from tests.soak.record import Row, compare
from tests.soak.rounds import Round, run_round
from tests.soak.site import RATES, Site, open_site

_HEADER = "round  seconds  runs  rows  box px  wrong  kills; faults"


@dataclass(frozen=True, kw_only=True, slots=True)
class SoakConfig:
    """Flags of `python -m tests.soak`."""

    rounds: int = 10
    images: int = 2000
    seed: int = 0
    """Seed of kills and faults; round n has seed + n."""
    pause: float = PAUSE_S
    """Seconds between two kills, on average."""
    logs: Path | None = None
    """What nodes, server and jobs say; by default in a folder of its own under /tmp."""


def main(config: SoakConfig) -> int:
    """Run the rounds; the exit code."""
    end_on_signals()
    logs = config.logs or Path(tempfile.mkdtemp(prefix="soak-logs-"))
    logs.mkdir(parents=True, exist_ok=True)
    print(f"logs in {logs}", flush=True)
    failed = 0
    with open_site(logs, 2) as site:
        images = site.put(real_images(config.images))
        print(_HEADER, flush=True)
        expected: dict[str, Row] = {}
        for number in range(config.rounds + 1):
            done, rows = _round(site, config, number)
            if number == 0:  # undisturbed
                expected = {row["image_uri"]: row for row in rows}
            counts = compare(rows, images, expected)
            wrong = done.violations + counts.violations()
            failed += bool(wrong)
            _print(site, number, done, len(rows), counts.largest_px, wrong)
    return int(failed > 0)


def _round(site: Site, config: SoakConfig, number: int) -> tuple[Round, list[Row]]:
    seed = config.seed + number
    site.proxy.rates = RATES if number else {}
    site.proxy.seed = seed
    site.proxy.requests.clear()
    output = f"out-{number:02d}"
    with site.watch(output).watching() as watch:
        done = run_round(
            site.cluster,
            site.flags(output, "--shard-size", "50"),
            killer=RandomKiller(seed, pause_s=config.pause) if number else None,
            log=site.logs / f"round-{number:02d}.log",
        )
    done.violations += watch.violations
    return done, watch.rows()


def _print(
    site: Site, number: int, done: Round, rows: int, largest_px: float, wrong: Sequence[str]
) -> None:
    print(
        f"{number:5d}  {done.seconds:7.0f}  {done.runs:4d}  {rows:4d}  {largest_px:6.4f}  {len(wrong):5d}  "
        f"{_listed(done.kills)}; {_listed(site.proxy.counts())}",
        flush=True,
    )
    for sentence in wrong:
        print(f"       {sentence}", flush=True)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(SoakConfig, description=__doc__)))
