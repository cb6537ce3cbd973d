"""Several data sets become one: classes by name, each image once, ids that differ."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.annotations import LabelledImages
from pipeline.annotations.reader import LabelSet, read_sets
from pipeline.annotations.rules import LabelRules
from pipeline.errors import UserError
from tests.pipeline.annotations.corpus import DOG, IMAGE, XML, Case, coco, corpus, write

CAT = XML.replace("dog", "cat")
LINE = "1 0.5 0.4833333333 0.5 0.5\n"
ONE_OF_EACH = {
    case.layout: case for case in reversed(corpus()) if case.boxes and case.split == "train"
}
"""One data set of each layout, with dogs only."""
del ONE_OF_EACH[""]
PAIRS = list(itertools.product(sorted(ONE_OF_EACH), repeat=2))


def joined(*roots: Path, split: str = "train", **rules: Any) -> LabelledImages:
    return read_sets([(LabelSet.open(str(root)), split) for root in roots], **rules)


def make(root: Path, files: dict[str, str]) -> Path:
    write(Case(name="", files=files), root)
    return root


def boxes_of(labelled: LabelledImages) -> dict[str, list[tuple[str, Sequence[float]]]]:
    """The class and box of each object, by the URI of the image."""
    return {
        image.image_uri: [
            (labelled.classes[label - 1], box)
            for label, box in zip(
                image.gt_labels.tolist(), image.gt_boxes.round(3).tolist(), strict=True
            )
        ]
        for image in labelled.images
    }


def test_every_layout_is_among_them() -> None:
    assert len(ONE_OF_EACH) == 8


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_sets_of_any_two_layouts_are_joined(pair: tuple[str, str], tmp_path: Path) -> None:
    apart: dict[str, list[tuple[str, Sequence[float]]]] = {}
    for name, layout in zip("ab", pair, strict=True):
        write(ONE_OF_EACH[layout], tmp_path / name)
        apart |= boxes_of(joined(tmp_path / name))
    both = joined(tmp_path / "a", tmp_path / "b")
    assert boxes_of(both) == apart
    assert ("dog", list(DOG[0][1:])) in [box for boxes in apart.values() for box in boxes]
    ids = [image.image_id for image in both.images]
    assert len(set(ids)) == len(ids) == len(apart)
    assert both.layout == (pair[0] if pair[0] == pair[1] else " + ".join(pair))
    assert [one.layout for one in both.sets] == list(pair)


def test_a_class_has_one_label_whatever_its_number_in_its_set(tmp_path: Path) -> None:
    yolo = make(
        tmp_path / "yolo",
        {
            "data.yaml": "names: [bird, dog]\n",
            "images/train/a.png": IMAGE,
            "labels/train/a.txt": LINE,
        },
    )
    voc = make(tmp_path / "voc", {"train/a.png": IMAGE, "train/a.xml": CAT})
    both = joined(voc, yolo)
    assert both.classes == ("cat", "bird", "dog")
    assert [[name for name, _ in boxes] for boxes in boxes_of(both).values()] == [["cat"], ["dog"]]
    assert [image.image_id for image in both.images] == ["voc/a", "yolo/a"]
    assert both.problems == ("this split has no box of class bird; the class is kept",)


def test_classes_and_renames_hold_for_the_join(tmp_path: Path) -> None:
    dogs = make(tmp_path / "dogs", {"train/a.png": IMAGE, "train/a.xml": XML})
    cats = make(tmp_path / "cats", {"train/b.png": IMAGE, "train/b.xml": CAT})
    only_cats = joined(dogs, cats, classes=("cat",), rules=LabelRules(ignore_others=True))
    assert [len(image.gt_boxes) for image in only_cats.images] == [1, 0]
    assert [len(image.ignored) for image in only_cats.images] == [0, 1]
    pets = joined(dogs, cats, rules=LabelRules(rename={"dog": "pet", "cat": "pet"}))
    assert pets.classes == ("pet",)
    assert pets.problems == ()


def test_the_limit_counts_images_of_the_join_and_keeps_all_classes(tmp_path: Path) -> None:
    dogs = make(tmp_path / "a", {f"train/{n}.png": IMAGE for n in "12"} | {"train/1.xml": XML})
    (dogs / "train/2.xml").write_text(XML)
    cats = make(tmp_path / "b", {"train/3.png": IMAGE, "train/3.xml": CAT})
    both = joined(cats, dogs, limit=2)
    assert [image.image_id for image in both.images] == ["1", "2"]
    assert both.classes == ("cat", "dog")


def test_an_image_of_two_sets_is_used_once_if_its_labels_agree(tmp_path: Path) -> None:
    voc = make(tmp_path / "set", {"train/a.png": IMAGE, "train/a.xml": XML})
    (tmp_path / "other").mkdir()
    (tmp_path / "other/train.json").write_text(coco("train/a.png"))
    sets = [LabelSet.open(str(voc)), LabelSet.open(str(tmp_path / "other"), str(voc))]
    both = read_sets([(one, "train") for one in sets])
    assert [image.image_id for image in both.images] == ["a"]
    (said,) = both.problems
    assert "images in two of the data sets, with equal labels, are used once" in said
    assert "set/train/a.png" in said


def test_an_image_of_two_sets_with_other_labels_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "set", {"train/a.png": IMAGE, "train/a.xml": CAT})
    (tmp_path / "other").mkdir()
    (tmp_path / "other/train.json").write_text(coco("train/a.png"))
    sets = [
        LabelSet.open(str(tmp_path / "set")),
        LabelSet.open(str(tmp_path / "other"), str(tmp_path / "set")),
    ]
    with pytest.raises(UserError, match=r"a\.png: is in two of the data sets, .*a\.xml and .*json"):
        read_sets([(one, "train") for one in sets])


def test_a_set_without_the_split_is_named_with_its_splits(tmp_path: Path) -> None:
    one = make(tmp_path / "one", {"train/a.png": IMAGE, "train/a.xml": XML})
    two = make(tmp_path / "two", {"val/b.png": IMAGE, "val/b.xml": XML})
    with pytest.raises(UserError, match=r"of .*two: .*no such split.*splits are: val"):
        joined(one, two)


def test_a_split_file_names_images_of_any_of_the_sets(tmp_path: Path) -> None:
    one = make(tmp_path / "one", {"train/a.png": IMAGE, "train/a.xml": XML})
    two = make(tmp_path / "two", {"val/b.png": IMAGE, "val/b.xml": CAT})
    listed = tmp_path / "list.txt"
    listed.write_text(f"train/a.png\n{two}/val/b.png\n")
    both = joined(one, two, split=str(listed))
    assert [image.image_id for image in both.images] == ["a", "b"]
    with pytest.raises(
        UserError, match=r"lists 1 images without labels in .*one, such as .*b\.png"
    ):
        joined(one, split=str(listed))


def test_a_path_of_a_split_file_that_two_sets_have_is_refused(tmp_path: Path) -> None:
    sets = [make(tmp_path / n, {"train/a.png": IMAGE, "train/a.xml": XML}) for n in ("one", "two")]
    listed = tmp_path / "list.txt"
    listed.write_text("train/a.png\n")
    with pytest.raises(UserError, match=r"may be .*one/train/a\.png or .*two/train/a\.png"):
        joined(*sets, split=str(listed))


def test_sets_in_folders_of_one_name_get_ids_from_their_paths(tmp_path: Path) -> None:
    for top in ("one", "two"):
        make(tmp_path / top / "data", {"train/a.png": IMAGE, "train/a.xml": XML})
    Image.new("RGB", (40, 30)).save(tmp_path / "two/data/train/c.png")
    both = joined(tmp_path / "one/data", tmp_path / "two/data")
    assert [image.image_id for image in both.images] == ["one/data/a", "two/data/a"]
