"""Every data set of the corpus: its right boxes, or a message that helps and fits on a screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.annotations import read_labelled_images
from pipeline.errors import UserError
from tests.pipeline.annotations.corpus import Case, corpus, write

CORPUS = corpus()


def test_there_are_more_than_200() -> None:
    assert len(CORPUS) > 200


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_a_data_set_gives_its_boxes_or_its_message(case: Case, tmp_path: Path) -> None:
    write(case, tmp_path)
    if case.boxes is None:
        with pytest.raises(UserError) as caught:
            read_labelled_images(str(tmp_path), case.split)
        message = str(caught.value).replace(f"{tmp_path}/", "")
        assert len(message) < 1200
    else:
        labelled = read_labelled_images(str(tmp_path), case.split)
        assert labelled.layout == (case.layout or labelled.layout)
        expected = dict(case.boxes)
        for image in labelled.images:
            (end,) = [e for e in expected if f"/{image.image_uri}".endswith(f"/{e}")]
            names = [labelled.classes[label - 1] for label in image.gt_labels]
            found = [(n, *box) for n, box in zip(names, image.gt_boxes.tolist(), strict=True)]
            wanted = expected.pop(end)
            assert [name for name, *_ in found] == [name for name, *_ in wanted]
            for box, right in zip(found, wanted, strict=True):
                assert box[1:] == pytest.approx(right[1:], abs=1e-4)
        assert not expected
        message = " ".join(labelled.problems).replace(f"{tmp_path}/", "")
    assert [part for part in case.says if part not in message] == [], message
