"""Faults of a round beside killed processes: what store, clocks and people do to a run and to its record."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from tests.fault_proxy import Trouble
from tests.soak.record import Watch
from tests.soak.rounds import job
from tests.soak.site import Site, node_key

RETRY = ("--retry", "denied", "unreadable", "missing", "changed", "failed")
"""Every status that is not the image's fault."""


def troubles(seed: int, images: int, *, of_a_node: bool = False) -> list[Trouble]:
    """Return the troubles of a round, in the order of chance.

    Args:
        seed: seed of the chance.
        images: number of images.
        of_a_node: each trouble is that of one node. A driver that lists archives has none: what it cannot
            list is a separate row.

    One node is denied, has a wrong clock, or does not see the bucket; images are missing; images are answered
    501 or 503. Each trouble breaks 2% to 12% as many requests as there are images: a few become bad rows,
    many stop the job.
    """
    chance = random.Random(seed)
    kinds = [(fault, node_key(chance.randrange(2)), "") for fault in ("403", "bucket", "skewed")]
    for fault in ("missing", "501", "503"):
        kinds.append((fault, node_key(chance.randrange(2)) if of_a_node else "", "/in/"))
    chance.shuffle(kinds)
    return [
        Trouble(
            fault=fault,
            requests=max(1, round(images * chance.uniform(0.02, 0.12))),
            after=images // 30,
            access_key=access_key,
            key=key,
        )
        for fault, access_key, key in kinds
    ]


class RecordFaults:
    """Harms the record of a finished run, and runs the commands that put it right.

    Args:
        site: the site.
        output: the name of the output in the bucket.
        flags: the flags of the command.
        watch: the shards as they were seen.
    """

    def __init__(self, site: Site, output: str, flags: Sequence[str], watch: Watch) -> None:
        self._site = site
        self._output = output
        self._flags = flags
        self._watch = watch
        self._log = site.logs / f"{output}-record.log"
        self.violations: list[str] = []

    def add(self, contents: Mapping[str, bytes]) -> None:
        """Put more images, and run the command."""
        self._site.put(contents)
        self._run(0)
        self._watch.look()

    def lose_plan(self, seed: int) -> str:
        """Delete plans/ or one generation of it: refused, then rebuilt."""
        keys = self._keys("plans/")
        generations = [key for key in keys if key.endswith(".json")]
        chance = random.Random(seed)
        lost = keys if chance.random() < 0.5 else [chance.choice(generations)]
        for key in lost:
            self._site.client.delete_object(Bucket=self._site.bucket, Key=key)
        self._refused("plans")
        self._run(0, "--rebuild-plan", "--retry", "none")
        return "all of plans/" if lost == keys else lost[0].rpartition("/")[2]

    def damage_shard(self, seed: int) -> str:
        """Cut a shard, flip one of its bits, or put another shard in its place: refused, then repaired."""
        chance = random.Random(seed)
        keys = sorted(self._watch.etags)
        key, other = chance.sample(keys, 2)
        data = bytearray(self._read(key))
        kind = chance.choice(["cut", "flipped", "another"])
        if kind == "cut":
            data = data[: len(data) // 3]
        elif kind == "flipped":
            data[chance.randrange(4, len(data) - 4)] ^= 1
        else:
            data = bytearray(self._read(other))
        del self._watch.etags[key]
        self._site.client.put_object(Bucket=self._site.bucket, Key=key, Body=bytes(data))
        self._refused(key.rpartition("/")[2])
        self._run(0, "--repair", "--retry", "none")
        self._watch.look()
        return f"a shard {kind}"

    def retry(self) -> None:
        """Run the command that scores every bad row again."""
        self._run(0, *RETRY)
        self._watch.look()

    def _refused(self, named: str) -> None:
        """Run the command: exit code 2, a last line that names the place, and nothing written."""
        before = self._keys("")
        line = self._run(2)
        if named not in line:
            self.violations.append(f"the last line does not name {named}: {line}")
        if self._keys("") != before:
            self.violations.append(f"the refused command wrote {set(self._keys('')) - set(before)}")

    def _run(self, expected: int, *more: str) -> str:
        """Run the command with more flags. Return its last line."""
        environment = {
            **self._site.cluster.environment,
            "RAY_ADDRESS": self._site.cluster.address,
        }
        with (
            self._log.open("ab") as log,
            job([*self._flags, *more], environment, log.fileno()) as driver,
        ):
            code = driver.wait(900)
        line = self._log.read_text().strip().splitlines()[-1]
        if code != expected:
            self.violations.append(f"exit code {code} instead of {expected} with {more}: {line}")
        return line

    def _read(self, key: str) -> bytes:
        body: bytes = self._site.client.get_object(Bucket=self._site.bucket, Key=key)["Body"].read()
        return body

    def _keys(self, below: str) -> list[str]:
        pages = self._site.client.get_paginator("list_objects_v2").paginate(
            Bucket=self._site.bucket, Prefix=f"{self._output}/{below}"
        )
        return [item["Key"] for page in pages for item in page.get("Contents", ())]
