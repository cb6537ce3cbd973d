"""Draws scenes and writes them as a labelled VOC folder and a folder of images to score, some of them broken.

    <output>/shapes/Annotations/*.xml  JPEGImages/*.jpg  ImageSets/Main/{train,val,test}.txt
    <output>/inbox/*.jpg               the test images, new scenes, and files broken on purpose

The inbox holds copies of the test images under the same names, so `jobs/evaluate.py` can match them.
"""

from __future__ import annotations

import io
import logging
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from pipeline import storage
from pipeline.config.tools import DrawConfig
from pipeline.drawing.scenes import Pixels, Scene, draw_scene, scene_rng

logger = logging.getLogger(__name__)

_BROKEN_SHARE = 0.1
_FIRST_BROKEN = 1_000_000  # index of the first scene that is broken, higher than all other indices


def run(config: DrawConfig) -> None:
    """Draw both folders on this machine, then upload them."""
    storage.check_writable(config.output)
    with tempfile.TemporaryDirectory() as folder:
        draw_dataset(config, Path(folder))
        storage.upload_folder(Path(folder), config.output)
    logger.info(
        "%d train, %d val, %d test images in %s; %d files to score in %s",
        config.train,
        config.val,
        config.test,
        storage.join(config.output, "shapes"),
        config.score,
        storage.join(config.output, "inbox"),
    )


def draw_dataset(config: DrawConfig, folder: Path) -> None:
    """Draw `shapes/` and `inbox/` into a local folder."""
    first = 0
    for split, count in (("train", config.train), ("val", config.val), ("test", config.test)):
        draw_split(folder / "shapes", split, range(first, first + count), config.seed)
        first += count
    _draw_inbox(folder, first - config.test, config)


def draw_split(
    shapes: Path, split: str, indices: range, seed: int, *, size: tuple[int, int] | None = None
) -> None:
    """Write one split of a VOC folder.

    Args:
        shapes: the VOC folder.
        split: the name of the split.
        indices: the scenes to draw.
        seed: the scenes depend on it and on their index.
        size: the size of all scenes, as `draw_scene` takes it; None draws different sizes.
    """
    scenes = ((index, draw_scene(scene_rng(seed, index), size)) for index in indices)
    write_split(shapes, split, scenes)


def write_split(shapes: Path, split: str, scenes: Iterable[tuple[int, Scene]]) -> None:
    """Write numbered scenes as one split of a VOC folder, one after the other."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (shapes / part).mkdir(parents=True, exist_ok=True)
    stems = []
    for index, scene in scenes:
        stem = f"{index:06d}"
        (shapes / "JPEGImages" / f"{stem}.jpg").write_bytes(jpeg_bytes(scene.pixels))
        (shapes / "Annotations" / f"{stem}.xml").write_bytes(voc_annotation(stem, scene))
        stems.append(stem)
    listing = "".join(f"{stem}\n" for stem in stems)
    (shapes / "ImageSets" / "Main" / f"{split}.txt").write_text(listing)


def _draw_inbox(folder: Path, first: int, config: DrawConfig) -> None:
    """Write the files to score: the test images from index `first` on, then new scenes, then broken files."""
    inbox = folder / "inbox"
    inbox.mkdir(parents=True)
    num_broken = round(config.score * _BROKEN_SHARE)
    for index in range(first, first + config.score - num_broken):
        labelled = folder / "shapes" / "JPEGImages" / f"{index:06d}.jpg"
        if labelled.exists():
            data = labelled.read_bytes()
        else:
            data = jpeg_bytes(draw_scene(scene_rng(config.seed, index)).pixels)
        (inbox / f"{index:06d}.jpg").write_bytes(data)
    for i in range(num_broken):
        fault = tuple(BROKEN)[i % len(BROKEN)]
        jpeg = jpeg_bytes(draw_scene(scene_rng(config.seed, _FIRST_BROKEN + i)).pixels)
        (inbox / f"broken-{i:03d}-{fault}.jpg").write_bytes(BROKEN[fault](jpeg))


def jpeg_bytes(pixels: Pixels) -> bytes:
    """Encode (H, W, 3) RGB pixels as a JPEG of quality 92."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def voc_annotation(stem: str, scene: Scene) -> bytes:
    """Return the VOC annotation of `<stem>.jpg`. Its corners are 1-based and inclusive."""
    height, width = scene.pixels.shape[:2]
    root = ElementTree.Element("annotation")
    _texts(root, folder="shapes", filename=f"{stem}.jpg")
    _texts(ElementTree.SubElement(root, "size"), width=width, height=height, depth=3)
    for label, (x_min, y_min, x_max, y_max) in zip(
        scene.labels, scene.boxes.astype(int).tolist(), strict=True
    ):
        object_ = ElementTree.SubElement(root, "object")
        at_edge = x_min == 0 or y_min == 0 or x_max == width or y_max == height
        _texts(object_, name=label, pose="Unspecified", truncated=int(at_edge), difficult=0)
        corners = {"xmin": x_min + 1, "ymin": y_min + 1, "xmax": x_max, "ymax": y_max}
        _texts(ElementTree.SubElement(object_, "bndbox"), **corners)
    ElementTree.indent(root)
    return ElementTree.tostring(root)


def _texts(parent: ElementTree.Element, **texts: object) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(parent, tag).text = str(text)


# --- files broken on purpose: each function turns a good JPEG into a broken file as buckets have them ---


def _cut_in_half(jpeg: bytes) -> bytes:
    return jpeg[: len(jpeg) // 2]


def _zero_bytes(jpeg: bytes) -> bytes:
    return b""


def _html(jpeg: bytes) -> bytes:
    return b"<!DOCTYPE html><html><title>403 Forbidden</title><h1>Forbidden</h1></html>\n"


def _zeroed_start(jpeg: bytes) -> bytes:
    return bytes(512) + jpeg[512:]


def _huge_size(jpeg: bytes) -> bytes:
    """Make a PNG of a few bytes whose header claims 40000 x 40000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(bytes(100)), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks
    )


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "cut": _cut_in_half,
    "zero-bytes": _zero_bytes,
    "html": _html,
    "zeroed-start": _zeroed_start,
    "huge-size": _huge_size,
}
"""Maps the name of a fault to the function that makes such a file."""
