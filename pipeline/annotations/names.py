"""What the names of splits and folders mean: `val2017`, `custom_train` and `validation_images` have a role.

A *role* is train, val or test. A name is cut into words at ``_``, ``-``, spaces, dots and capital letters;
digits at the end of a word are ignored.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence

from pipeline.annotations.tree import composed

ALL = "all"
"""The only split of a data set that names no splits."""
_ROLES = {
    **dict.fromkeys(("train", "training", "trn", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "holdout"), "test"),
}
_LABELS = frozenset(
    "annotations annotation annots annot anns ann xml xmls labels label labeled labelled boxes box bbox"
    " bboxes detections gt csv coco instances labelimg voc".split()
)
_IMAGES = frozenset(
    "jpegimages images image imgs img pics pictures photos frames jpg jpeg jpegs png pngs data".split()
)
_KINDS = _LABELS | _IMAGES | {"folder", "folders", "dir", "files", "set"}
_WORD = re.compile(r"[_\-. ]+|(?<=[a-z])(?=[A-Z])")


def role(name: str) -> str | None:
    """Return the role of a split: train, val or test; None if its name tells none, or several."""
    roles = {_role(word) for word in _words(name)} - {None}
    return roles.pop() if len(roles) == 1 else None


def role_of_path(path: str) -> str | None:
    """Return the role of the deepest part of a path that has one. The file name counts without its suffix."""
    folder = posixpath.dirname(path)
    return next(filter(None, map(role, reversed(folder.split("/")))), None) if folder else None


def find_split(wanted: str, splits: Sequence[str]) -> str | None:
    """Return the split of the data set that `wanted` means; None if there is none.

    It has exactly this name, or it is the only one with the same role: `train` means `train2017`. If no
    name has a role, `train` means the only split, or `all`.
    """
    if wanted in splits:
        return wanted
    same = [split for split in splits if role(wanted) and role(split) == role(wanted)]
    if wanted == role(wanted) and len(same) == 1:
        return same[0]
    if wanted == "train" and not any(map(role, splits)):
        return only(splits) or (ALL if ALL in splits else None)
    return None


def validation_split(training: str, splits: Sequence[str]) -> str | None:
    """Return the split to validate on after training on `training`; None if none clearly belongs to it.

    `train` goes with `val`, `train2017` with `val2017`, `custom_train` with `custom_val`. Otherwise the only
    split with the role val is taken.
    """
    if role(training) != "train":
        return None
    found = [split for split in splits if role(split) == "val"]
    if "val" in found and training == "train":
        return "val"
    rest = _without_role(training)
    same = [split for split in found if _without_role(split) == rest]
    for choice in (same, found):
        if len(choice) == 1:
            return choice[0]
    return None


def key_of(path: str) -> str:
    """Reduce the path of an image or a label file to what both have in common.

    Words that only say what a folder holds are left out, and a role is written in one way:
    ``validation_images/a.jpg`` and ``annots/val/a.xml`` both become ``val/a``.
    """
    folders, name = posixpath.split(path)
    parts = [_reduce(part) for part in folders.split("/")] if folders else []
    return "/".join([*filter(None, parts), composed(posixpath.splitext(name)[0])])


def split_of_key(path: str) -> str | None:
    """Return the split that a folder of this path names, in its spelling; None if none does."""
    for part in posixpath.dirname(path).split("/"):
        if role(part) is not None:
            words = [word for word in _words(part) if word.lower() not in _KINDS]
            return "_".join(words)
    return None


def split_of_file(path: str) -> str:
    """Return the split that the name of a label file tells, else a folder with a role, else `all`."""
    words = [w for w in _words(posixpath.splitext(posixpath.basename(path))[0]) if w]
    rest = [word for word in words if word.lower() not in _KINDS]
    if any(_role(word) for word in rest):
        return "_".join(rest)
    return split_of_key(path) or ALL


def holds_images(folder: str) -> bool:
    """Whether the name of a folder says that it holds images."""
    return any(word.lower() in _IMAGES for word in _words(folder))


def roles_differ(*roles: str | None) -> bool:
    """Whether two of these roles are known and differ."""
    return len({role for role in roles if role}) > 1


def only(items: Iterable[str]) -> str | None:
    """Return the only item; None if there are none or several."""
    found = list(items)
    return found[0] if len(found) == 1 else None


def _words(name: str) -> list[str]:
    return [word for word in _WORD.split(name) if word]


def _role(word: str) -> str | None:
    return _ROLES.get(word.lower().rstrip("0123456789"))


def _reduce(part: str) -> str:
    words = [word.lower() for word in _words(part)]
    return "_".join(_role(word) or word for word in words if word not in _KINDS)


def _without_role(name: str) -> list[str]:
    """List the words of a split's name, with the role left out and its digits kept."""
    return [re.sub(r"^[a-z]+", "", w.lower()) if _role(w) else w.lower() for w in _words(name)]
