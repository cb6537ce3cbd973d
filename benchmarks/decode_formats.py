"""Part of `jobs/benchmark.py decode`: measure each format, compared with a plain JPEG of the same pictures.

Some JPEGs are encoded in each format that Pillow or imagecodecs writes. Another process decodes all files
several times and gives the best wall time of each, because most formats are decoded behind the fence, in yet
another process. With --before, the same files are decoded by another checkout of this project, in turns
with this one, so that other work on the machine slows both alike.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image

_ROOT = Path(__file__).resolve().parents[1]
_TURNS = 4
_WORKER = """
import json, sys, time
from pathlib import Path
from pipeline.images import ImageError, decode

best = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    data = path.read_bytes()
    try:
        for _ in range(int(sys.argv[2])):
            started = time.perf_counter()
            decode(data)
            seconds = time.perf_counter() - started
            best[path.name] = min(best.get(path.name, seconds), seconds)
    except ImageError:
        pass
print(json.dumps(best))
"""

Encoder = Callable[[Image.Image], bytes]
PLAIN = "JPEG"


def by_pillow(format: str, **options: Any) -> Encoder:
    def encode(image: Image.Image) -> bytes:
        sink = io.BytesIO()
        image.save(sink, format, **options)
        return sink.getvalue()

    return encode


def _several(image: Image.Image) -> bytes:
    small = image.resize((max(1, image.width // 4), max(1, image.height // 4)))
    return by_pillow("MPO", quality=90, save_all=True, append_images=[small])(image)


def _with_gain_map(image: Image.Image) -> bytes:
    """Encode as Ultra HDR does: a second picture, and XMP that says so."""
    xmp = b'http://ns.adobe.com/xap/1.0/\0<rdf:Description hdrgm:Version="1.0"/>'
    segment = b"\xff\xe1" + (len(xmp) + 2).to_bytes(2, "big") + xmp
    data = _several(image)
    return data[:2] + segment + data[2:]


KINDS: dict[str, Encoder] = {
    PLAIN: by_pillow("JPEG", quality=90),
    "JPEG, 2 pictures": _several,
    "JPEG, Ultra HDR": _with_gain_map,
    "JPEG, no end marker": lambda image: by_pillow("JPEG", quality=90)(image)[:-2],
    "JPEG, CMYK": lambda image: by_pillow("JPEG", quality=90)(image.convert("CMYK")),
    "PNG": by_pillow("PNG"),
    "WebP": by_pillow("WEBP", quality=90),
    "GIF": lambda image: by_pillow("GIF")(image.quantize()),
    "BMP": by_pillow("BMP"),
    "TIFF": by_pillow("TIFF"),
    "AVIF": by_pillow("AVIF", quality=80),
    "JPEG 2000": by_pillow("JPEG2000", quality_mode="rates", quality_layers=[10]),
    "JPEG XL": lambda image: bytes(imagecodecs.jpegxl_encode(np.asarray(image), 90, effort=4)),
}


def measure_formats(images: list[bytes], rounds: int, before: Path | None) -> list[dict[str, Any]]:
    """Measure each kind of file.

    Args:
        images: encoded pictures, the content of the files.
        rounds: how often each file is decoded in a turn.
        before: another checkout of this project, or None.

    Returns:
        For each kind its name, `ms` for an image, `to_plain` (a multiple of the time of a plain JPEG), and
        `to_before` (a multiple of the time of the other checkout; None if it does not decode this kind).
    """
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(images):
            picture = Image.open(io.BytesIO(data)).convert("RGB")
            for kind, encode in KINDS.items():
                (Path(folder) / f"{kind}.{number}").write_bytes(encode(picture))
        now: dict[str, float] = {}
        earlier: dict[str, float] = {}
        for _ in range(_TURNS):
            if before is not None:
                _add_best(earlier, _decode_all(before, folder, rounds))
            _add_best(now, _decode_all(_ROOT, folder, rounds))
    return [_row(kind, len(images), now, earlier) for kind in KINDS]


def _decode_all(checkout: Path, folder: str, rounds: int) -> dict[str, float]:
    """Decode the files with the code of a checkout: name of the file -> best seconds."""
    command = [sys.executable, "-c", _WORKER, folder, str(rounds)]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    best: dict[str, float] = json.loads(done.stdout)
    return best


def _add_best(best: dict[str, float], others: dict[str, float]) -> None:
    for name, seconds in others.items():
        best[name] = min(best.get(name, seconds), seconds)


def _row(kind: str, count: int, now: dict[str, float], earlier: dict[str, float]) -> dict[str, Any]:
    names = [f"{kind}.{number}" for number in range(count)]
    seconds = np.array([now[name] for name in names])
    plain = np.array([now[f"{PLAIN}.{number}"] for number in range(count)])
    known = all(name in earlier for name in names)
    return {
        "kind": kind,
        "ms": 1000 * float(np.median(seconds)),
        "to_plain": float(np.median(seconds / plain)),
        "to_before": (
            float(np.median(seconds / np.array([earlier[name] for name in names])))
            if known
            else None
        ),
    }


def format_lines(rows: list[dict[str, Any]], compared: bool) -> Iterator[str]:
    """Write the table."""
    yield f"{'format':<24}{'ms/image':>12}{'of a plain JPEG':>18}{'of before' if compared else '':>12}"
    for row in rows:
        before = "" if row["to_before"] is None else f"{row['to_before']:.2f}"
        before = before or ("not read" if compared else "")
        yield f"{row['kind']:<24}{row['ms']:>12.2f}{row['to_plain']:>18.2f}{before:>12}"
