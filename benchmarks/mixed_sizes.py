"""Count passes and padded pixels for images of mixed sizes, as the Detectors of a scoring job cut them.

No device is needed: a pass holds at most eight images of equal canvas (`fastrcnn.detection.canvases`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from fastrcnn.transform import canvas_size, scaled_size

PASS, CALL = 8, 32
"""Images of a pass, and candidates of one call of a Detector on a GPU (four passes)."""
READ = {"4 batches": 32, "16 batches": 128}
"""Images that a reader sorts by shape before it gives them on."""
CAMERAS = ((3000, 4000), (2000, 3000), (1080, 1920), (2448, 3264), (3456, 5184), (720, 1280))
"""Pixels of photographs, (height, width); a third of them is upright."""
Size = tuple[int, int]


def pass_rows(
    files: Sequence[Path], scale: int = 480, max_size: int = 800
) -> list[tuple[str, str]]:
    """Give rows (name, value) for photographs, for sizes from 300 to 1200 px, and for the files."""
    chance = random.Random(0)
    cameras = [chance.choice(CAMERAS) for _ in range(1024)]
    mixes = {
        "photographs of six cameras": [s if chance.random() < 2 / 3 else s[::-1] for s in cameras],
        "sides from 300 to 1200": [
            (chance.randint(300, 1200), chance.randint(300, 1200)) for _ in range(1024)
        ],
    }
    if files:
        mixes["--data"] = [_size(path) for path in chance.sample(list(files), len(files))]
    rows = []
    for name, sizes in mixes.items():
        own = sum(h * w for h, w in (scaled_size(size, scale, max_size) for size in sizes))
        rows.append((f"{name}, images", str(len(sizes))))
        for read, number in READ.items():
            made = count_passes(sizes, number, scale, max_size)
            padded = sum(images * canvas[0] * canvas[1] for images, canvas in made)
            rows.append((f"{name}, passes, sorting {read}", str(len(made))))
        rows.append((f"{name}, padded pixels of its own", f"{padded / own:.3f}"))
    return rows


def count_passes(
    sizes: Sequence[Size], read: int, scale: int, max_size: int
) -> list[tuple[int, Size]]:
    """Give (images, canvas) of each pass.

    Args:
        sizes: (height, width) of the images, in the order of the bucket.
        read: images that a reader sorts by shape.
    """
    made = []
    for first in range(0, len(sizes), read):
        ordered = sorted(sizes[first : first + read], key=lambda s: (s[1] / s[0], s[1]))
        for start in range(0, len(ordered), CALL):
            call = Counter(canvas_size(s, scale, max_size) for s in ordered[start : start + CALL])
            for canvas, number in call.items():
                whole, rest = divmod(number, PASS)
                made += [(PASS, canvas)] * whole + [(rest, canvas)] * bool(rest)
    return made


def _size(path: Path) -> Size:
    with Image.open(path) as image:
        width, height = image.size
        upright = image.getexif().get(274, 1) < 5
    return (height, width) if upright else (width, height)
