"""Plants faults in the labels of a VOC folder, and keeps the truth: what a search should find."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from fastrcnn.metrics.inputs import pairwise_iou

Kind = Literal["missing_label", "bad_box", "wrong_class"]
KINDS: tuple[Kind, ...] = ("missing_label", "bad_box", "wrong_class")
Box = tuple[float, float, float, float]
BAD_IOU = (0.2, 0.6)
"""IoU of a planted bad box with the true box."""
_EDGES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One planted fault. Boxes are xyxy with continuous edges."""

    image: str
    """Stem of the image."""
    kind: Kind
    true_label: str
    true_box: Box
    label: str | None
    """The planted label. None: the label was taken away."""
    box: Box | None


def plant(folder: Path, classes: Sequence[str], *, share: float, seed: int) -> list[Fault]:
    """Change a share of the labels in folder/Annotations, the kinds in turn; write them to faults.json.

    Args:
        folder: a VOC folder. Its labels are changed in place.
        classes: a wrong class is one of these.
        share: of all labels.
    """
    random = np.random.default_rng(seed)
    paths = sorted((folder / "Annotations").glob("*.xml"))
    roots = {path: ElementTree.fromstring(path.read_bytes()) for path in paths}
    places = [(path, k) for path, root in roots.items() for k in range(len(_objects(root)))]
    chosen = random.permutation(len(places))[: round(share * len(places))]
    faults: list[Fault] = []
    removed: list[tuple[ElementTree.Element, ElementTree.Element]] = []
    for turn, place in enumerate(chosen.tolist()):
        path, number = places[place]
        root = roots[path]
        entry = _objects(root)[number]
        kind = KINDS[turn % len(KINDS)]
        name, box = str(entry.findtext("name")), _box(entry)
        label: str | None = name
        planted: Box | None = box
        if kind == "missing_label":
            removed.append((root, entry))
            label, planted = None, None
        elif kind == "wrong_class":
            label = str(random.choice([other for other in classes if other != name]))
            _set(entry, "name", label)
        else:
            planted = _moved(random, box, _size(root))
            _write(entry, planted)
        faults.append(
            Fault(
                image=path.stem,
                kind=kind,
                true_label=name,
                true_box=box,
                label=label,
                box=planted,
            )
        )
    for root, entry in removed:  # last: the numbers of the objects stay as they were
        root.remove(entry)
    for path, root in roots.items():
        path.write_bytes(ElementTree.tostring(root))
    text = json.dumps([asdict(fault) for fault in faults], indent=1)
    (folder / "faults.json").write_text(text + "\n")
    return faults


def read_faults(folder: Path) -> list[Fault]:
    """Read faults.json of a folder."""
    entries = json.loads((folder / "faults.json").read_text())
    for entry in entries:
        for name in ("true_box", "box"):
            entry[name] = None if entry[name] is None else tuple(entry[name])
    return [Fault(**entry) for entry in entries]


def _objects(root: ElementTree.Element) -> list[ElementTree.Element]:
    return root.findall("object")


def _size(root: ElementTree.Element) -> tuple[float, float]:
    """Give width and height."""
    return float(root.findtext("size/width") or 0), float(root.findtext("size/height") or 0)


def _box(entry: ElementTree.Element) -> Box:
    x1, y1, x2, y2 = (float(entry.findtext(f"bndbox/{edge}") or 0) for edge in _EDGES)
    return x1 - 1, y1 - 1, x2, y2


def _write(entry: ElementTree.Element, box: Box) -> None:
    x1, y1, x2, y2 = box
    for edge, value in zip(_EDGES, (x1 + 1, y1 + 1, x2, y2), strict=True):
        _set(entry, f"bndbox/{edge}", f"{value:.0f}")


def _set(entry: ElementTree.Element, path: str, text: str) -> None:
    child = entry.find(path)
    assert child is not None
    child.text = text


def _moved(random: np.random.Generator, box: Box, size: tuple[float, float]) -> Box:
    """Move and stretch a box inside its image until its IoU with the true box lies in `BAD_IOU`."""
    true = np.array([box])
    sides = true[0, 2:] - true[0, :2]
    while True:
        centre = (true[0, :2] + true[0, 2:]) / 2 + random.uniform(-0.5, 0.5, 2) * sides
        half = sides / 2 * np.exp(random.uniform(-0.4, 0.4, 2))
        corners: npt.NDArray[np.float64] = np.rint(np.append(centre - half, centre + half))
        corners[[0, 2]] = corners[[0, 2]].clip(0, size[0])
        corners[[1, 3]] = corners[[1, 3]].clip(0, size[1])
        if (corners[2:] - corners[:2]).min() < 4:
            continue
        if BAD_IOU[0] <= pairwise_iou(corners[None], true)[0, 0] <= BAD_IOU[1]:
            x1, y1, x2, y2 = corners.tolist()
            return x1, y1, x2, y2
