"""Every bad and odd image of the corpus, and thousands of damaged ones: the status that is due, in time."""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter

import pytest

from pipeline.images import decode
from pipeline.images.fence import Fence, fence
from pipeline.images.guard import ImageError
from tests.pipeline.hostile_bytes import encode, fuzzed, photo
from tests.pipeline.hostile_images import FORMATS, Hostile, corpus

SECONDS = 1.0
PEAK_BYTES = 200 * 2**20
NUM_FUZZED = int(os.environ.get("NUM_FUZZED", "400"))
"""`make fuzz` tries 10,000."""


@pytest.fixture(scope="module")
def hostile() -> list[Hostile]:
    return corpus()


def outcome(data: bytes) -> tuple[str, str]:
    """(status, what the column `error` would say)."""
    try:
        image = decode(data)
    except ImageError as error:
        return error.status, error.message
    assert image.pixels.ndim == 3
    return "ok", image.warning or ""


def timed(data: bytes) -> tuple[str, str, float]:
    started = time.monotonic()
    status, says = outcome(data)
    return status, says, time.monotonic() - started


def own_peak_bytes() -> int:
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def test_every_image_gets_its_status_within_a_second(
    hostile: list[Hostile], capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(hostile) >= 120
    decode(encode(photo(), "PNG"))  # its process is there before the clock runs
    before, started = own_peak_bytes(), fence().started
    wrong, slowest, counts = [], (0.0, ""), Counter[str]()
    for case in hostile:
        status, says, seconds = timed(case.data)
        if seconds > SECONDS:  # another program may have had the core: once more
            status, says, seconds = timed(case.data)
        slowest = max(slowest, (seconds, case.name))
        counts[status] += 1
        if status not in case.statuses or case.says not in says:
            wrong.append(f"{case.name}: {status} ({says}), not {sorted(case.statuses)} {case.says}")
        assert "\n" not in says
    grown = own_peak_bytes() - before
    with capsys.disabled():
        sys.stdout.write(
            f"\n{len(hostile)} hostile images: {dict(counts)}; slowest {slowest[1]!r} {slowest[0]:.2f} s; "
            f"peak {fence().peak_bytes / 2**20:.0f} MiB behind the fence, {grown / 2**20:.0f} MiB more here\n"
        )
    assert wrong == []
    assert slowest[0] <= SECONDS
    assert fence().started == started, "an image killed the decoding process"
    assert max(fence().peak_bytes, grown) < PEAK_BYTES


def test_every_image_gets_a_status_behind_the_fence_too(hostile: list[Hostile]) -> None:
    """As those do that were in a process when it died."""
    started = fence().started
    for case in hostile:
        try:
            decode(case.data, fenced=True)
            status = "ok"
        except ImageError as error:
            status = error.status
        assert status in case.statuses | ({"undecodable"} if "ok" in case.statuses else set())
        if status == "undecodable":
            assert "undecodable" in case.statuses, case.name
    assert fence().started == started


def test_damaged_images_end_no_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Here a death would be the test's own, as the fast path decodes in this process."""
    own = Fence(seconds=10)
    monkeypatch.setattr("pipeline.images.decoding.fence", lambda: own)
    seed = int(os.environ.get("FUZZ_SEED", "0"))
    random_ = random.Random(seed)
    sources = [encode(photo(40, 56, mode), format) for format in FORMATS for mode in ("RGB", "L")]
    sources += [
        encode(photo(40, 56), progressive=True),
        encode(photo(40, 56, "CMYK")),
        encode(photo(40, 56, "RGBA"), "PNG"),
        encode(photo(40, 56, "RGBA"), "WEBP", lossless=True),
        encode(photo(40, 56), "TIFF", compression="jpeg"),
        encode(photo(40, 56), "TIFF", compression="tiff_lzw"),
    ]
    counts, slowest = Counter[str](), 0.0
    for _ in range(NUM_FUZZED):
        status, _, seconds = timed(
            fuzzed(random_.choice(sources), random_.choice(sources), random_)
        )
        counts[status] += 1
        slowest = max(slowest, seconds)
    own.close()
    noise = capfd.readouterr().err  # libjpeg says what it thinks of damage, one line an image
    assert noise.count("\n") <= NUM_FUZZED
    with capfd.disabled():
        sys.stdout.write(
            f"\n{NUM_FUZZED} fuzzed images (seed {seed}): {dict(counts)}; slowest {slowest:.2f} s; "
            f"{own.started} decoding processes, {own.peak_bytes / 2**20:.0f} MiB at most\n"
        )
    assert counts.keys() <= {"ok", "undecodable", "too_large"}, "a decoding process died"
    assert own.started <= 1 + NUM_FUZZED // 1000
