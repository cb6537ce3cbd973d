"""Every bad or unusual image of the corpus, and thousands of damaged ones, get the right status in time."""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter

import imagecodecs
import numpy as np
import pytest

from pipeline.images import decode
from pipeline.images.fence import Fence, fence
from pipeline.images.guard import ImageError
from tests.pipeline import hostile_tiffs
from tests.pipeline.hostile_bytes import encode, fuzzed, photo
from tests.pipeline.hostile_formats import NEW_FORMATS, new_format
from tests.pipeline.hostile_images import FORMATS, Hostile, corpus
from tests.pipeline.odd_formats import jxl, sample, several_pictures, ultra_hdr

SECONDS = 1.0
PEAK_BYTES = 200 * 2**20
NUM_FUZZED = int(os.environ.get("NUM_FUZZED", "400"))
"""Number of damaged images; `make fuzz` uses 10,000."""


@pytest.fixture(scope="module")
def hostile() -> list[Hostile]:
    return corpus()


def outcome(data: bytes) -> tuple[str, str]:
    """Decode; return (status, text of the column `error`)."""
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


def peak_bytes() -> int:
    """The largest memory that this process has used."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def test_every_image_gets_its_status_within_a_second(
    hostile: list[Hostile], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(hostile) >= 500
    monkeypatch.setattr("pipeline.images.fence.IMAGES_A_PROCESS", 10**6)  # no process ends by age
    fence().close()  # its processes may have decoded larger images of other tests
    fence().peak_bytes = 0
    for data in (encode(photo(), "PNG"), sample("rgb.heic")):
        decode(data)  # starts a process, so that no case waits for it
    before, started = peak_bytes(), fence().started
    wrong, slowest, counts = [], (0.0, ""), Counter[str]()
    for case in hostile:
        status, says, seconds = timed(case.data)
        if seconds > SECONDS:  # another program may have used the core: try again
            status, says, seconds = timed(case.data)
        slowest = max(slowest, (seconds, case.name))
        counts[status] += 1
        if status not in case.statuses or case.says not in says:
            wrong.append(f"{case.name}: {status} ({says}), not {sorted(case.statuses)} {case.says}")
        assert "\n" not in says
    grown = peak_bytes() - before
    with capsys.disabled():
        sys.stdout.write(
            f"\n{len(hostile)} hostile images: {dict(counts)}; slowest {slowest[1]!r} {slowest[0]:.2f} s; "
            f"peak {fence().peak_bytes / 2**20:.0f} MiB behind the fence, {grown / 2**20:.0f} MiB more here\n"
        )
    assert wrong == []
    assert slowest[0] <= SECONDS
    assert fence().started == started, "an image killed the decoding process"
    assert max(fence().peak_bytes, grown) < PEAK_BYTES


def test_every_image_gets_a_status_behind_the_fence_too(
    hostile: list[Hostile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image goes this way after a process died with it."""
    monkeypatch.setattr("pipeline.images.fence.IMAGES_A_PROCESS", 10**6)  # no process ends by age
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
    """The fast path decodes in this process, so a crash would end the test itself."""
    new_fence = Fence(seconds=10)
    monkeypatch.setattr("pipeline.images.decoding.fence", lambda: new_fence)
    seed = int(os.environ.get("FUZZ_SEED", "0"))
    random_ = random.Random(seed)
    sources = [encode(photo(40, 56, mode), format) for format in FORMATS for mode in ("RGB", "L")]
    sources += [new_format(name, 40, 56) for name in NEW_FORMATS for _ in range(2)]
    sources += [
        several_pictures(photo(40, 56)),
        ultra_hdr(photo(40, 56)),
        sample("rgba.heic"),
        sample("rgb_10_bits.heic"),
        sample("three_scans.jpg"),
        sample("arithmetic_progressive.jpg"),
        jxl(np.asarray(photo(40, 56, "RGBA")), usecontainer=True),
        bytes(imagecodecs.jpeg8_encode(np.asarray(photo(40, 56)), lossless=True)),
        encode(photo(40, 56, "RGBA"), "AVIF"),
        encode(photo(40, 56, "RGBA"), "JPEG2000"),
        encode(photo(40, 56), progressive=True),
        encode(photo(40, 56, "CMYK")),
        encode(photo(40, 56, "RGBA"), "PNG"),
        encode(photo(40, 56, "RGBA"), "WEBP", lossless=True),
        encode(photo(40, 56), "TIFF", compression="jpeg"),
        encode(photo(40, 56), "TIFF", compression="tiff_lzw"),
        *hostile_tiffs.sound(),
    ]
    counts, slowest = Counter[str](), 0.0
    for _ in range(NUM_FUZZED):
        status, _, seconds = timed(
            fuzzed(random_.choice(sources), random_.choice(sources), random_)
        )
        counts[status] += 1
        slowest = max(slowest, seconds)
    new_fence.close()
    noise = capfd.readouterr().err  # libjpeg reports damage, one line an image
    assert noise.count("\n") <= NUM_FUZZED
    with capfd.disabled():
        sys.stdout.write(
            f"\n{NUM_FUZZED} fuzzed images (seed {seed}): {dict(counts)}; slowest {slowest:.2f} s; "
            f"{new_fence.started} decoding processes, {new_fence.peak_bytes / 2**20:.0f} MiB at most\n"
        )
    assert counts.keys() <= {"ok", "undecodable", "too_large"}, "a decoding process died"
    # one process for HEIC, which may start threads, and one for the others
    assert new_fence.started <= 2 + NUM_FUZZED // 1000
