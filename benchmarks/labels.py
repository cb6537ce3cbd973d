"""Run `jobs/benchmark.py labels`: time and memory of reading a large COCO file, and many label files on S3.

The COCO file has ten boxes per image, each with an outline of eight corners. The label files are VOC's XML;
an S3 server in a process on loopback computes them. A process reads each part, for its time and peak memory.

Files on S3 are read by the data set reader, by `storage.read_bytes` (a botocore request each), and by a bare
client, which shows what the server can do. Their ratios count: the server has the same cores.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from benchmarks import CHECKOUT
from benchmarks.config import LabelsConfig
from benchmarks.results import write_results
from pipeline import storage
from pipeline.annotations import read_labelled_images
from pipeline.runtime.prefetch import REQUESTS_AT_ONCE, in_threads

_PER_IMAGE = 10
_CLASSES = 80
_PAGE = 1000
_XML = (
    b"<annotation><size><width>640</width><height>480</height></size><object><name>dog</name><bndbox>"
    b"<xmin>11</xmin><ymin>8</ymin><xmax>130</xmax><ymax>222</ymax></bndbox></object></annotation>"
)
_ETAG = hashlib.md5(_XML, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One line of the table."""

    what: str
    count: int
    """Boxes, or label files."""
    seconds: float
    cpu_seconds: float
    """CPU time of the reading process."""
    peak_mb: float
    """Peak memory of the reading process."""


def run(config: LabelsConfig) -> None:
    """Measure, print a table, and write results.json."""
    folder = config.output / "coco"
    _write_coco(folder, config.boxes)
    results = [_measure(str(folder), "COCO, boxes", config.boxes, {})]
    with serving(config.files) as endpoint:
        client = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        for what, way, count in (
            ("XML files on S3", "read", config.files),
            ("the same, read_bytes", "read_bytes", max(1, config.files // 10)),
            ("the same, bare client", "bare", config.files),
        ):
            results.append(_measure("s3://labels/set", what, count, client, way))
    xml = config.output / "voc"
    _write_voc(xml, config.files)
    results.append(_measure(str(xml), "XML files in a folder", config.files, {}))
    print(f"{'':<22}{'count':>10}{'s':>8}{'CPU s':>8}{'per s':>10}{'peak MB':>9}")
    for one in results:
        rate = one.count / max(one.seconds, 1e-3)
        print(
            f"{one.what:<22}{one.count:>10}{one.seconds:>8.1f}{one.cpu_seconds:>8.1f}{rate:>10.0f}"
            f"{one.peak_mb:>9.0f}"
        )
    write_results(config, [asdict(one) for one in results])


def _measure(
    uri: str, what: str, count: int, environment: dict[str, str], way: str = "read"
) -> Result:
    command = [sys.executable, "-m", "benchmarks.labels", way, uri, what, str(count)]
    variables = {**os.environ, **environment, "PYTHONPATH": str(CHECKOUT)}
    output = subprocess.run(command, env=variables, check=True, stdout=subprocess.PIPE).stdout
    return Result(**json.loads(output))


def read(way: str, uri: str, what: str, count: int) -> Result:
    """Read the split `train` in one of three ways, and check how much was read."""
    started, cpu = time.monotonic(), time.process_time()
    if way == "read":
        labelled = read_labelled_images(uri, "train")
        number = sum(len(image.gt_boxes) for image in labelled.images)
    elif way == "read_bytes":
        keys = (f"{uri}/{_key(2 * n + 1).partition('/')[2]}" for n in range(count))
        number = sum(data == _XML for data in in_threads(storage.read_bytes, keys))
    else:
        number = asyncio.run(_read_bare(urlsplit(os.environ["AWS_ENDPOINT_URL"]).port, count))
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu
    assert number == count
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return Result(what=what, count=count, seconds=seconds, cpu_seconds=cpu_seconds, peak_mb=peak)


async def _read_bare(port: int | None, count: int) -> int:
    """Read the files over 16 connections with nothing but GET; return how many arrived."""

    async def read_share(first: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        arrived = 0
        for number in range(first, count, REQUESTS_AT_ONCE):
            writer.write(f"GET /labels/{_key(2 * number + 1)} HTTP/1.1\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            arrived += await reader.readexactly(len(_XML)) == _XML
        writer.close()
        return arrived

    return sum(await asyncio.gather(*map(read_share, range(REQUESTS_AT_ONCE))))


def _write_voc(folder: Path, files: int) -> None:
    """Write XML files, and an empty file for the image of each."""
    shutil.rmtree(folder, ignore_errors=True)  # an earlier run may have written more files
    (folder / "train").mkdir(parents=True, exist_ok=True)
    for number in range(files):
        (folder / "train" / f"{number:08d}.xml").write_bytes(_XML)
        (folder / "train" / f"{number:08d}.jpg").touch()


def _write_coco(folder: Path, boxes: int) -> None:
    """Write a COCO file, and an empty file for each image."""
    numbers = random.Random(0)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "train").mkdir(exist_ok=True)
    names = [f"{n:012d}.jpg" for n in range(-(-boxes // _PER_IMAGE))]
    for name in names:
        (folder / "train" / name).touch()
    with (folder / "annotations" / "instances_train.json").open("w") as file:
        images = (
            {"id": n, "file_name": name, "width": 640, "height": 480}
            for n, name in enumerate(names)
        )
        categories = [{"id": k, "name": f"class {k}"} for k in range(_CLASSES)]
        file.write(f'{{"categories": {json.dumps(categories)}, "images": [')
        file.write(", ".join(map(json.dumps, images)))
        file.write('], "annotations": [')
        for number in range(boxes):
            box = [round(numbers.uniform(1, 230), 2) for _ in range(4)]
            outline = [round(numbers.uniform(1, 230), 2) for _ in range(16)]
            ids = {"id": number, "image_id": number // _PER_IMAGE, "category_id": number % _CLASSES}
            more = {"bbox": box, "area": box[2] * box[3], "iscrowd": 0, "segmentation": [outline]}
            file.write(f"{', ' if number else ''}{json.dumps(ids | more)}")
        file.write("]}")


@contextmanager
def serving(files: int) -> Iterator[str]:
    """Start the S3 server in a process; give its URL."""
    command = [sys.executable, "-m", "benchmarks.labels", "serve", str(files)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.terminate()


async def serve(files: int) -> None:
    """Answer list and GET requests for `files` XML files and as many images; print the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            while (await reader.readline()).strip():  # the rest of the head
                pass
            target = urlsplit(line.split()[1].decode())
            query = parse_qs(target.query)
            status, body = 200, _XML
            if "list-type" in query:
                body = list_page(files, unquote(query.get("start-after", [""])[0]))
            elif not target.path.endswith(".xml"):
                status, body = 404, b""
            head = f'HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nETag: "{_ETAG}"\r\n\r\n'
            writer.write(head.encode() + (b"" if line.startswith(b"HEAD") else body))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def list_page(files: int, after: str) -> bytes:
    """Write S3's answer to ListObjectsV2 after a key: pairs of an image and its XML file."""
    low = bisect_right(range(2 * files), after, key=_key)
    last = min(low + _PAGE, 2 * files)
    entries = "".join(
        f'<Contents><Key>{_key(n)}</Key><ETag>"{_ETAG}"</ETag><Size>{len(_XML)}</Size></Contents>'
        for n in range(low, last)
    )
    more = "true" if last < 2 * files else "false"
    return (
        f"<ListBucketResult><IsTruncated>{more}</IsTruncated>{entries}</ListBucketResult>".encode()
    )


def _key(number: int) -> str:
    return f"set/train/{number // 2:08d}.{('jpg', 'xml')[number % 2]}"


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(int(sys.argv[2])))
    else:
        way, uri, what, count = sys.argv[1:]
        print(json.dumps(asdict(read(way, uri, what, int(count)))))
