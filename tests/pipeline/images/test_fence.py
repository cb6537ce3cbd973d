"""The decoding processes: their limits, their environment, and what happens when one dies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import AvifImagePlugin

from pipeline.images import decode
from pipeline.images.fence import Fence, fence
from pipeline.images.guard import ImageError
from tests.pipeline.hostile_bytes import encode, exif, photo, png
from tests.pipeline.odd_formats import sample

PNG = encode(photo(), "PNG")


@pytest.fixture
def decoders() -> Iterator[Fence]:
    """A fence with at most two processes."""
    fence = Fence(max_processes=2, seconds=5)
    yield fence
    fence.close()


def process_ids() -> set[int]:
    """The ids of the child processes of this process."""
    files = Path("/proc/self/task").glob("*/children")
    return {int(pid) for children in files for pid in children.read_text().split()}


def started_by(decoders: Fence) -> int:
    """Make a fence start its first process; return the id of the process."""
    before = process_ids()
    decoders.decode(PNG, "PNG", max_pixels=10**6)
    (pid,) = process_ids() - before
    return pid


def test_one_process_decodes_many_images(decoders: Fence) -> None:
    for _ in range(20):
        image = decoders.decode(PNG, "PNG", max_pixels=10**6)
        assert image.pixels is not None
        np.testing.assert_array_equal(image.pixels, np.asarray(photo()))
        assert image.pixels.flags.writeable
    assert decoders.started == 1
    assert 10**7 < decoders.peak_bytes < 10**8


def test_the_fence_gives_the_same_pixels_as_the_fast_path() -> None:
    images = {
        f"{mode} {options}": encode(photo(97, 131).convert(mode), quality=90, **options)
        for mode in ("RGB", "L")
        for options in ({}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1})
    }
    images |= {f"turned {n}": encode(photo(20, 50), exif=exif(n)) for n in range(10)}
    for name, data in images.items():
        plain, fenced = decode(data), decode(data, fenced=True)
        np.testing.assert_array_equal(plain.pixels, fenced.pixels, err_msg=name)
        assert plain.warning == fenced.warning


def test_only_plain_jpegs_are_decoded_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed() -> None:
        raise AssertionError("asked for the fence")

    monkeypatch.setattr("pipeline.images.decoding.fence", closed)
    for data in (encode(photo()), encode(photo(), progressive=True), encode(photo(mode="L"))):
        assert decode(data).pixels.shape == (48, 64, 3)
    for data in (PNG, encode(photo(mode="CMYK")), encode(photo(), keep_rgb=True)[:-2]):
        with pytest.raises(AssertionError):
            decode(data)


def test_the_process_gets_no_credentials(decoders: Fence, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    pid = started_by(decoders)
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    names = {entry.split(b"=")[0].decode() for entry in environment.split(b"\0") if entry}
    assert b"canary" not in environment
    assert not {name for name in names if name.startswith(("AWS", "RAY", "PYTHON"))}
    open_files = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    assert all(name == "/dev/null" or name.startswith("pipe:") for name in open_files), open_files


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_idle_processes_that_were_killed_are_dropped(number: signal.Signals) -> None:
    """The kernel may kill all idle processes at once. The next image is not their fault."""
    with contextlib.closing(Fence(max_processes=3, seconds=60)) as fence:
        threads = [
            threading.Thread(target=fence.decode, args=(PNG, "PNG"), kwargs={"max_pixels": 10**6})
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        idle = {child._process.pid for child in fence._idle}
        assert len(idle) == fence.started > 1
        for pid in idle:
            os.kill(pid, number)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert fence.decode(PNG, "PNG", max_pixels=10**6, only_size=True).height == 48
        assert fence.started == len(idle) + 1
        for pid in idle:
            assert not Path(f"/proc/{pid}").exists(), "the dead ones were not waited for"


def test_after_a_death_the_second_try_starts_a_process(
    decoders: Fence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two idle processes look alive and die with the first byte: one image must not meet both."""
    idle = [decoders._start("PNG", 10**6), decoders._start("PNG", 10**6)]
    decoders._idle = list(idle)
    monkeypatch.setattr(type(idle[0]), "runs", lambda child: True)
    for child in idle:
        os.kill(child._process.pid, signal.SIGKILL)
    assert decoders.decode(PNG, "PNG", max_pixels=10**6).height == 48
    assert decoders.started == 3
    idle[0].end()
    decoders._idle = [child for child in decoders._idle if child is not idle[0]]


def most_processes(pid: int) -> str:
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line.split()[2] for line in limits if line.startswith("Max processes"))


def test_only_the_decoder_of_heic_may_start_threads(decoders: Fence) -> None:
    """libde265 ends its process if it cannot start a thread."""
    assert most_processes(started_by(decoders)) == "0"
    before = process_ids()
    decoders.decode(sample("rgb.heic"), "HEIF", max_pixels=10**6)
    (pid,) = process_ids() - before
    assert most_processes(pid) != "0"
    decoders.decode(PNG, "PNG", max_pixels=10**6)
    decoders.decode(sample("gray.heic"), "HEIF", max_pixels=10**6)
    assert decoders.started == 2
    assert AvifImagePlugin.DEFAULT_MAX_THREADS == 1


def test_the_time_limit_grows_with_max_pixels(decoders: Fence) -> None:
    before = process_ids()
    decoders.decode(PNG, "PNG", max_pixels=300_000_000)
    (pid,) = process_ids() - before
    os.kill(pid, signal.SIGSTOP)
    decoders.seconds = 0.1
    started = time.monotonic()
    with pytest.raises(ImageError, match=r"more than 0\.3 s"):
        decoders.decode(PNG, "PNG", max_pixels=300_000_000)
    assert time.monotonic() - started < 10


def test_a_file_that_lacks_its_end_is_marked(decoders: Fence) -> None:
    whole = encode(photo(240, 320))
    assert decoders.decode(whole[:-2], "JPEG", max_pixels=10**6).lacks_end
    assert not decoders.decode(whole, "JPEG", max_pixels=10**6).lacks_end
    assert not decoders.decode(PNG, "PNG", max_pixels=10**6).lacks_end


def test_a_process_that_dies_is_replaced(decoders: Fence) -> None:
    os.kill(started_by(decoders), signal.SIGKILL)
    image = decoders.decode(PNG, "PNG", max_pixels=10**6)
    assert image.pixels is not None
    assert decoders.started == 2


def test_an_image_that_kills_its_process_twice_fails_and_the_next_is_decoded(
    decoders: Fence,
) -> None:
    too_much = PNG + bytes(400_000_000)  # more than the memory limit of the process
    with pytest.raises(ImageError, match="its decoding process died") as caught:
        decoders.decode(too_much, "PNG", max_pixels=1)
    assert caught.value.status == "failed"
    assert decoders.started == 2
    assert decoders.decode(PNG, "PNG", max_pixels=10**6).height == 48


def test_an_image_that_takes_too_long_fails(decoders: Fence) -> None:
    os.kill(started_by(decoders), signal.SIGSTOP)
    decoders.seconds = 0.2
    with pytest.raises(ImageError, match=r"more than 0\.2 s") as caught:
        decoders.decode(PNG, "PNG", max_pixels=10**6)
    assert caught.value.status == "failed"


def test_memory_stays_below_the_limit_for_max_pixels(decoders: Fence) -> None:
    large = png(2000, 2000, colour=6, rows=(b"\0" + bytes(4 * 2000)) * 2000)
    with pytest.raises(ImageError) as caught:
        decoders.decode(large, "PNG", max_pixels=3_999_999)
    assert caught.value.status == "too_large"
    image = decoders.decode(large, "PNG", max_pixels=4_000_000)
    assert (image.height, image.width) == (2000, 2000)
    assert decoders.peak_bytes < 256 * 2**20 + 24 * 4_000_000


def test_threads_share_the_processes(decoders: Fence) -> None:
    shapes: list[tuple[int, int]] = []

    def work() -> None:
        for _ in range(5):
            image = decoders.decode(PNG, "PNG", max_pixels=10**6)
            shapes.append((image.height, image.width))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shapes == [(48, 64)] * 30
    assert decoders.started <= 2


def test_a_process_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """The parent is killed, so the decoding process notices only the end of its stdin."""
    script = tmp_path / "owner.py"
    script.write_text(
        "import os, signal\nfrom pathlib import Path\nfrom pipeline.images import decode\n"
        f"decode(bytes.fromhex('{PNG.hex()}'))\n"
        "for child in Path(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read_text().split():\n"
        "    print(child, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    root = str(Path(__file__).resolve().parents[3])
    owner = subprocess.run(
        [sys.executable, str(script)], env=os.environ | {"PYTHONPATH": root}, capture_output=True
    )
    (pid,) = owner.stdout.split()
    for _ in range(1000):
        try:
            state = Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            break
        if state == "Z":
            break
        threading.Event().wait(0.01)
    else:
        pytest.fail("the decoding process still runs after 10 s")


def test_the_fence_of_a_process_is_made_once() -> None:
    assert fence() is fence()
