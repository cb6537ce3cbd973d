"""Decides whether a bad row may be written, or whether the job must stop: the gate before the committer.

What an image is (`undecodable`, `too_large`) passes at once. Other rows that are not `ok` may tell of the
store, the command or a bug. A trouble of that kind would give thousands of such rows, so the gate holds each
of them back until it has seen the next `LAST` rows, or the end of the job. If too many rows have such a
cause, the job stops. A shard that waits for a row is not whole, so it is not written.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import JobError
from pipeline.schema import RESULT

logger = logging.getLogger(__name__)

FROM_THE_STORE = ("denied", "unreadable", "missing", "changed")
"""Statuses that mean that the store did not give the image. It may do so later."""
LAST = 200
"""The number of latest rows whose shares are judged."""
FIRST = 50
"""A job whose first rows all failed is stopped after so many."""
FEW = 10
"""In a job of fewer than `LAST` rows, fewer unread images than this stop it only if none could be read."""
MOST_FAILED = 0.5
"""The largest share of the last rows with status `failed`."""

_Kind = Literal["good", "unread", "unread again", "failed"]


class Gate:
    """Lets result rows pass, holds some back, and stops the job when too many of them fail alike.

    Args:
        max_unreachable: --max-unreachable, the largest share of the last rows that the store did not give.
            1 turns this check off.
        proven: the run has images already that were read and scored, so not everything is wrong.
        retried: shards whose images failed before. Many of them may fail again while all is well.
        store_works: reads images that could be read before, and returns whether it got them. It is asked
            when too many images of `retried` cannot be read.
        replaced: returns for each row (RESULT) whether a newer version of its image is planned. The old
            version is gone, so its `changed` row is right, and tells of no trouble.
    """

    def __init__(
        self,
        *,
        max_unreachable: float,
        proven: bool = False,
        retried: Collection[int] = (),
        store_works: Callable[[], bool] = lambda: False,
        replaced: Callable[[pa.Table], Sequence[bool]] = lambda rows: [False] * rows.num_rows,
    ) -> None:
        self._max_unreachable = max_unreachable
        self._proven = proven
        self._retried = frozenset(retried)
        self._store_works = store_works
        self._replaced = replaced
        self._last: deque[_Kind] = deque(maxlen=LAST)
        self._examples: dict[_Kind, tuple[pa.Table, int]] = {}
        self._held: deque[tuple[int, pa.Table]] = deque()
        self._seen = 0
        self._failed = 0
        self._nodes: defaultdict[str, Counter[_Kind]] = defaultdict(Counter)

    def sift(self, rows: pa.Table) -> pa.Table:
        """Take result rows (RESULT). Return those that may be written now, of this call or earlier ones.

        Raises:
            JobError: too many rows have a cause that is not the image's.
        """
        kinds = self._kinds(rows)
        for index, kind in enumerate(kinds):
            was_full = len(self._last) == LAST
            self._seen += 1
            self._last.append(kind)
            if kind != "good":
                self._examples[kind] = (rows, index)
            self._failed += kind == "failed"
            if self._failed == self._seen == FIRST and not self._proven:
                self._stop_for_failures(FIRST, f"the first {FIRST} images")
            # The shares of a full window grow with a bad row only.
            if len(self._last) == LAST and (kind != "good" or not was_full):
                self._judge_reads()
                self._judge_failures()
        bad = pa.array([kind != "good" for kind in kinds], pa.bool_())
        if pc.any(bad).as_py():
            self._held.append((self._seen, rows.filter(bad)))
            rows = rows.filter(pc.invert(bad))
        passed = [rows]
        while self._held and self._held[0][0] + LAST <= self._seen:
            passed.append(self._held.popleft()[1])
        return pa.concat_tables(passed)

    def close(self) -> pa.Table:
        """Return the rows that were held back, at the end of the job.

        Raises:
            JobError: as in `sift`.
        """
        rows = pa.concat_tables([RESULT.empty_table(), *(table for _, table in self._held)])
        self._held.clear()
        if not rows.num_rows:
            return rows
        unread = self._last.count("unread") + self._last.count("unread again")
        if unread >= FEW or (unread == self._seen and not self._proven):
            self._judge_reads()
        if self._failed == self._seen and not self._proven:
            self._stop_for_failures(self._failed, f"{self._seen} images")
        return rows

    def _kinds(self, rows: pa.Table) -> list[_Kind]:
        """Classify rows, and count them for their nodes."""
        kinds: list[_Kind] = []
        expected = [False] * rows.num_rows
        if pc.any(pc.equal(rows["status"], "changed")).as_py():
            expected = list(self._replaced(rows))
        columns = (rows[name].to_pylist() for name in ("status", "node", "shard"))
        for status, node, shard, replaced in zip(*columns, expected, strict=True):
            kind: _Kind = "good"
            if status == "failed":
                kind = "failed"
            elif (
                status in FROM_THE_STORE
                and self._max_unreachable < 1
                and not (status == "changed" and replaced)
            ):
                kind = "unread again" if shard in self._retried else "unread"
            kinds.append(kind)
            self._nodes[node or "this machine"][kind] += 1
        return kinds

    def _judge_reads(self) -> None:
        """Stop the job if the store did not give too many of the last images."""
        most = self._max_unreachable * len(self._last)
        unread, again = self._last.count("unread"), self._last.count("unread again")
        if unread + again <= most:
            return
        if unread <= most and self._store_works():
            # Images that could not be read before fail again, and others can be read. So it is these images.
            others: list[_Kind] = [k for k in self._last if k != "unread again"]
            self._last.clear()
            self._last.extend(others)
            return
        row = self._example("unread" if unread else "unread again")
        raise JobError(
            f"the store gave only {len(self._last) - unread - again} of the last {len(self._last)} images "
            f"({row['status']}: {row['error']}). {self._worst_node()} No shard with such images was written. "
            "When the cause is removed, run the same command again. If these images can never be read, add "
            "--max-unreachable 1"
        )

    def _judge_failures(self) -> None:
        """Stop the job if too many of the last images failed."""
        failed = self._last.count("failed")
        if failed > MOST_FAILED * LAST:
            self._stop_for_failures(failed, f"the last {LAST} images")

    def _stop_for_failures(self, failed: int, of: str) -> NoReturn:
        last = self._example("failed")
        if last["traceback"]:
            logger.error("%s:\n%s", last["image_uri"], last["traceback"].rstrip())
        raise JobError(
            f"{failed} of {of} failed, so the cause is not the images ({last['image_uri']}: "
            f"{last['error']}). {self._worst_node()} No shard with such images was written. "
            "When the cause is removed, run the same command again"
        )

    def _example(self, kind: _Kind) -> dict[str, Any]:
        """Return the last row of a kind."""
        rows, index = self._examples[kind]
        row: dict[str, Any] = rows.slice(index, 1).to_pylist()[0]
        return row

    def _worst_node(self) -> str:
        """Describe the node whose images failed most, as a sentence."""

        def share(counts: Counter[_Kind]) -> tuple[float, int]:
            bad = counts.total() - counts["good"]
            return bad / counts.total(), bad

        name, counts = max(self._nodes.items(), key=lambda item: share(item[1]))
        others = [c for n, c in self._nodes.items() if n != name]
        sentence = f"Most failed on node {name}: {share(counts)[1]} of its {counts.total()} images"
        if others:
            bad = sum(share(each)[1] for each in others)
            sentence += f" (other nodes: {bad} of {sum(each.total() for each in others)})"
        return sentence + "."
