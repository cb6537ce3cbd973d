"""python -m tests.soak --rounds 10 --images 2000 --seed 0

It needs real images beside the checkout (see `tests/conftest.py`). Each round prints its kills and faults.
The exit code is 1 if a row was missing, twice, or not as in an undisturbed run; if a shard changed; if a row
was still wrong after --retry; or if a command gave another exit code than promised.

A round: half of the images are in the bucket, and the command runs until it exits with 0, while processes
are killed and the store fails (`tests.soak.troubles`). When two shards exist, the other half comes, and a
second driver starts. Then nine images come that the store denies: they get bad rows, and the exit code is 0.
The plan is lost and rebuilt, a shard is damaged and repaired. The store gives all images again, and --retry
scores the bad rows.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from demo.processes import end_on_signals
from tests.fault_proxy import Trouble
from tests.soak.images import in_tars, real_images
from tests.soak.killers import FOR_S, PAUSE_S, RandomKiller
from tests.soak.record import Row, Watch, compare
from tests.soak.rounds import Round, run_round
from tests.soak.site import RATES, Site, open_site
from tests.soak.troubles import RecordFaults, troubles

_HEADER = "round  seconds  runs  rows  bad, left  box px  wrong  kills; faults; exit codes; record"


@dataclass(frozen=True, kw_only=True, slots=True)
class SoakConfig:
    """Flags of `python -m tests.soak`."""

    rounds: int = 10
    images: int = 2000
    tars: int = 0
    """Images in each tar. 0: the images are objects. With tars, no images are denied, and no bytes change on
    their way: a part of an object has no checksum, so over http nothing could notice it."""
    seed: int = 0
    """Seed of kills and faults; round n has seed + n."""
    pause: float = PAUSE_S
    """Seconds between two kills, on average."""
    logs: Path | None = None
    """Folder for the logs of nodes, server and jobs. Default: a new folder under /tmp."""


@dataclass(kw_only=True, slots=True)
class _Result:
    """One round: what happened, its rows, and how many images had a bad row before and after --retry."""

    done: Round
    rows: list[Row]
    bad: int = 0
    left: int = 0
    record: tuple[str, ...] = ()


def main(config: SoakConfig) -> int:
    """Run the rounds. Return the exit code."""
    end_on_signals()
    logs = config.logs or Path(tempfile.mkdtemp(prefix="soak-logs-"))
    logs.mkdir(parents=True, exist_ok=True)
    print(f"logs in {logs}", flush=True)
    failed = 0
    with open_site(logs, 2) as site:
        contents = real_images(config.images)
        names = list(contents)
        if config.tars:
            contents, names = in_tars(contents, config.tars)
        uris = site.put(contents)
        images = [name.format(site.folder) for name in names] if config.tars else uris
        print(_HEADER, flush=True)
        expected: dict[str, Row] = {}
        for number in range(config.rounds + 1):
            started = time.monotonic()
            if number == 0:
                result = _undisturbed(site, config)
                expected = {row["image_uri"]: row for row in result.rows}
            else:
                result = _round(site, config, number, contents)
            counts = compare(result.rows, images, expected)
            wrong = result.done.violations + counts.violations()
            failed += bool(wrong)
            seconds = time.monotonic() - started
            print(_line(number, seconds, result, counts.largest_px, len(wrong), site), flush=True)
            for sentence in wrong:
                print(f"       {sentence}", flush=True)
    return int(failed > 0)


def _flags(config: SoakConfig) -> tuple[str, ...]:
    archives = ("--archives",) if config.tars else ()
    return "--shard-size", str(max(5, config.images // 40)), *archives


def _rates(config: SoakConfig) -> Mapping[str, float]:
    return {f: rate for f, rate in RATES.items() if not config.tars or f != "flip"}


def _undisturbed(site: Site, config: SoakConfig) -> _Result:
    with site.watch("out-00").watching() as watch:
        flags = site.flags("out-00", *_flags(config))
        done = run_round(site.cluster, flags, killer=None, log=site.logs / "round-00.log")
    done.violations += watch.violations
    return _Result(done=done, rows=watch.rows())


def _round(site: Site, config: SoakConfig, number: int, contents: Mapping[str, bytes]) -> _Result:
    seed, output = config.seed + number, f"out-{number:02d}"
    start = f"{random.Random(seed).randrange(max(1, len(contents) // 10)):05d}"
    # Nine: `pipeline.scoring.gate` lets fewer than ten of few images pass.
    denied = {n: data for n, data in contents.items() if n.startswith(start) and n.endswith(".jpg")}
    names = random.Random(seed).sample(sorted(contents.keys() - denied), len(contents) // 2)
    later = {name: contents[name] for name in names}
    site.delete([*later, *denied])
    site.proxy.rates, site.proxy.seed = _rates(config), seed
    site.proxy.requests.clear()
    site.proxy.troubles = troubles(seed, config.images, of_a_node=config.tars > 0)
    flags = site.flags(output, *_flags(config))
    killer = RandomKiller(seed, pause_s=config.pause, for_s=FOR_S * min(1.0, config.images / 1000))
    with site.watch(output).watching() as watch:
        done = run_round(
            site.cluster,
            flags,
            killer=killer,
            log=site.logs / f"round-{number:02d}.log",
            grow=_grow(site, watch, later),
            count_troubles=lambda: site.proxy.troubled,
        )
    faults = RecordFaults(site, output, flags, watch)
    site.proxy.troubles = []
    if denied:
        site.proxy.troubles = [Trouble(fault="403", requests=10**9, key=f"/in/{start}")]
    faults.add(denied)
    bad = compare(watch.rows(), [], {}).not_ok
    if bad < len(denied):
        done.violations.append(f"{bad} bad rows, but {len(denied)} images are denied")
    record = (faults.lose_plan(seed), faults.damage_shard(seed))
    site.proxy.troubles = []
    faults.retry()
    site.proxy.rates = {}
    done.violations += watch.violations + faults.violations
    rows = watch.rows()
    left = compare(rows, [], {}).not_ok
    return _Result(done=done, rows=rows, bad=bad, left=left, record=record)


def _grow(site: Site, watch: Watch, later: Mapping[str, bytes]) -> Callable[[], bool]:
    """Return the function that puts the other images when two shards exist."""

    def grow() -> bool:
        if len(watch.etags) < 2:
            return False
        site.put(later)
        return True

    return grow


def _line(
    number: int, seconds: float, result: _Result, largest_px: float, wrong: int, site: Site
) -> str:
    done = result.done
    numbers = f"{number:5d}  {seconds:7.0f}  {done.runs:4d}  {len(result.rows):4d}"
    numbers += f"  {result.bad:3d}, {result.left:4d}  {largest_px:6.4f}  {wrong:5d}"
    words = (_listed(done.kills), _listed(site.proxy.counts()), _listed(done.codes))
    return f"{numbers}  {'; '.join((*words, _joined(result.record)))}"


def _joined(words: Sequence[str]) -> str:
    return ", ".join(words) or "none"


def _listed(counts: Counter[Any]) -> str:
    return _joined([f"{name} {count}" for name, count in sorted(counts.items(), key=str)])


if __name__ == "__main__":
    sys.exit(main(tyro.cli(SoakConfig, description=__doc__)))
