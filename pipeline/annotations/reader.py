"""Reads one split of one or several data sets, each in any known format."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from pipeline.annotations.doubts import find_doubts
from pipeline.annotations.formats import DataSet, find_data_set, find_format
from pipeline.annotations.joining import join
from pipeline.annotations.labelled import Annotations, LabelledImages, SetName
from pipeline.annotations.names import find_split
from pipeline.annotations.numbering import number_labels
from pipeline.annotations.rules import REFUSE, LabelRules
from pipeline.annotations.split_files import is_split_file, read_split_file
from pipeline.annotations.tree import Tree, list_tree
from pipeline.annotations.unknown import no_images
from pipeline.errors import UserError
from pipeline.storage import ObjectInfo, absolute

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSet:
    """One data set: its files, listed once, and its layout."""

    uri: str
    """Where its labels are, as the user gave it."""
    images_at: str | None
    """The folder of its images, if they lie apart."""
    files: Tree
    """All its files."""
    content: DataSet
    """The files in their layout, without folders around them."""

    @classmethod
    def open(cls, uri: str, images_at: str | None = None) -> Self:
        """List the files of a data set and recognise its layout. Raises `UserError`."""
        files = list_tree(uri, images_at)
        return cls(uri=uri, images_at=images_at, files=files, content=find_data_set(files))

    @property
    def root(self) -> str:
        """The folder below which its images lie, as an absolute URI."""
        return absolute(self.uri if self.images_at is None else self.images_at).rstrip("/")

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of its splits."""
        return self.content.format.splits(self.content.tree)


def read_labelled_images(
    uri: str,
    split: str,
    *,
    classes: Sequence[str] = (),
    limit: int | None = None,
    images_at: str | None = None,
    rules: LabelRules = REFUSE,
) -> LabelledImages:
    """Read one split of a data set. The format is recognised by the files.

    Args:
        uri: the folder of the data set, local or remote. With `images_at`, also one annotation file.
        split: the name of the split in the data set, or of one that clearly means it: `train` for
            `train2017`. Or the URI of a file with one image path a line (``splits/val.txt``).
        classes: class names in label order; empty means the classes of the data set.
        limit: read only this many images, the first by URI; None reads all. The classes of the data set do
            not depend on it.
        images_at: the folder of the images, if they lie apart from the labels.
        rules: what becomes of bad labels and of classes that are not in `classes`. By default they are
            refused.

    Raises:
        UserError: the format is unknown, the split does not exist or is empty, or `rules` refuse a label.
    """
    parts = [(LabelSet.open(uri, images_at), split)]
    return read_sets(parts, classes=classes, limit=limit, rules=rules)


def read_sets(
    parts: Sequence[tuple[LabelSet, str]],
    *,
    classes: Sequence[str] = (),
    limit: int | None = None,
    rules: LabelRules = REFUSE,
) -> LabelledImages:
    """Read a split of each of several data sets, and join them. Classes with one name are one class.

    Args:
        parts: each data set with the name of its split, or with a split file that all share.
        classes: class names in label order; empty means the classes of the sets, in the order of the sets.
        limit: keep only this many images in all, the first by URI.
        rules: as in `read_labelled_images`.

    Raises:
        UserError: a set has no such split, or two sets have one image with different labels.
    """
    split = parts[0][1]
    if _is_file(split, [one for one, _ in parts]):
        read = _read_listed([one for one, _ in parts], split)
    else:
        read = [_read_split(one, name, classes, limit) for one, name in parts]
    annotations = join(read, [one.root for one, _ in parts], rules.rename)
    layouts = [one.content.format.name for one, _ in parts]
    labelled = number_labels(annotations, " + ".join(dict.fromkeys(layouts)), classes, rules)
    images = labelled.images[:limit]
    names = [SetName(one.root, layout) for (one, _), layout in zip(parts, layouts, strict=True)]
    return replace(
        labelled,
        images=images,
        problems=(*labelled.problems, *find_doubts(images, labelled.classes)),
        sets=tuple(names),
    )


def splits(uri: str, images_at: str | None = None) -> tuple[str, ...]:
    """List the names of a data set's splits. Raises `UserError` if `uri` holds no data set."""
    return LabelSet.open(uri, images_at).splits


def list_files(uri: str, images_at: str | None = None) -> Mapping[str, ObjectInfo]:
    """List the files of a data set by URI. A file that several links lead to is listed for each link."""
    return {info.uri: info for info in list_tree(uri, images_at).objects.values()}


def _is_file(split: str, sets: Sequence[LabelSet]) -> bool:
    return is_split_file(split, [name for one in sets for name in one.splits])


def _read_split(
    one: LabelSet, split: str, classes: Sequence[str], limit: int | None
) -> Annotations:
    """Read a split of one data set; at most `limit` images, if its classes are known without the others.

    Raises:
        UserError: there is no such split, or it is empty.
    """
    content, name = _find_split(one, split)
    early = limit if classes or content.format.declares_classes else None
    annotations = content.format.read(content.tree, name, early)
    if not annotations.images:
        raise UserError(
            f"split {name!r} of {one.uri}",
            "has no labelled image",
            f"The splits of this data set are: {', '.join(one.splits)}.",
        )
    if annotations.unlabelled is not None:
        raise annotations.unlabelled
    return annotations


def _find_split(one: LabelSet, split: str) -> tuple[DataSet, str]:
    """Return the data set and the name of the split in it that `split` means.

    Raises:
        UserError: there is none.
    """
    content, known = one.content, one.splits
    if (name := find_split(split, known)) is not None:
        if name != split:
            logger.info("split %r means %r in %s", split, name, one.uri)
        return content, name
    if content.around and split == content.around.partition("/")[0]:
        # Before folders around a data set were recognised, they were splits.
        format = find_format(one.files)
        if format is not None and split in format.splits(one.files):
            return DataSet(tree=one.files, format=format), split
    if not known:
        raise no_images(content.tree, content.format.name)
    raise UserError(
        f"split {split!r} of {one.uri}",
        f"this {content.format.name} data set has no such split",
        f"Its splits are: {', '.join(known) or 'none'}.",
    )


def _read_listed(sets: Sequence[LabelSet], list_uri: str) -> list[Annotations]:
    """Read the images that a split file lists, from any split of any of these data sets.

    Raises:
        UserError: an image in the file is in no split, or a relative path is one of two data sets.
    """
    listed = read_split_file(list_uri)
    missing = {path: [f"{one.root}/{path}" for one in sets] for path in listed.relative}
    missing |= {uri: [uri] for uri in listed.absolute}
    path_of = {uri: path for path, uris in missing.items() for uri in uris}
    found: dict[str, str] = {}
    read = []
    for one in sets:
        annotations = _read_wanted(one, listed.source, path_of.keys())
        for image in annotations.images:
            path = path_of[image.image_uri]
            if found.setdefault(path, image.image_uri) != image.image_uri:
                raise UserError(
                    f"{path} in {list_uri}",
                    f"may be {found[path]} or {image.image_uri}",
                    "Write the whole URI of each image.",
                )
        read.append(annotations)
    absent = sorted(missing.keys() - found.keys())
    if absent:
        raise UserError(
            f"--split {list_uri}",
            f"lists {len(absent)} images without labels in {' or '.join(one.uri for one in sets)}, such as"
            f" {missing[absent[0]][0]}",
            "Give the --data that the file was made for.",
        )
    return read


def _read_wanted(one: LabelSet, source: str | None, wanted: Iterable[str]) -> Annotations:
    """Read the images of one data set that a split file lists. Its classes are those of all images read.

    Args:
        source: the split that the images are from; None reads all splits.
        wanted: the URIs of the images.
    """
    missing, used = set(wanted), set[str]()
    parts: list[Annotations] = []
    for split in (source,) if source in one.splits else one.splits:
        annotations = one.content.format.read(one.content.tree, split, None)
        used |= {box.name for image in annotations.images for box in image.boxes}
        kept = tuple(image for image in annotations.images if image.image_uri in missing)
        missing -= {image.image_uri for image in kept}
        parts.append(replace(annotations, images=kept))
        if not missing:
            break
    declared = next((part.names for part in parts if part.names is not None), None)
    return Annotations(
        images=tuple(image for part in parts for image in part.images),
        names=tuple(sorted(used)) if declared is None else declared,
        problems=tuple(dict.fromkeys(problem for part in parts for problem in part.problems)),
        bad=tuple(one for part in parts for one in part.bad),
    )
