"""Labels of drawn images: which images count, and how much."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import sample
from pipeline.annotations import LabelledImage, LabelledImages
from pipeline.calibrate import drawn_images
from pipeline.config import SampleConfig
from pipeline.config.tools import CalibrateConfig
from pipeline.errors import UserError
from tests.pipeline.scored_runs import image, write_shard

BOX = (0.0, 0.0, 9.0, 9.0)


def labelled(uris: list[str]) -> LabelledImages:
    none = np.zeros(1, np.bool_)
    images = [
        LabelledImage(
            image_uri=uri,
            annotation_uri="labels",
            gt_boxes=np.array([BOX], np.float32),
            gt_labels=np.array([1]),
            difficult=none,
            crowd=none,
            image_id=uri,
        )
        for uri in uris
    ]
    return LabelledImages(images=tuple(images), classes=("cat",), layout="voc", problems=())


@pytest.fixture
def drawn(tmp_path: Path) -> sample.Sample:
    """A sample of 300 images. Ten of them have many cats."""
    rows = [
        image(f"s3://b/in/{k:03d}.jpg", *[("cat", 0.9, BOX)] * (20 if k < 10 else 0))
        for k in range(300)
    ]
    write_shard(str(tmp_path), *rows)
    config = SampleConfig(scored=str(tmp_path), output=str(tmp_path / "round"), budget=100, seed=1)
    return sample.run(config)


def test_drawn_images_count_by_how_many_they_stand_for(
    tmp_path: Path, drawn: sample.Sample
) -> None:
    everything = labelled([f"/copy/in/{k:03d}.jpg" for k in range(300)])
    kept, weights = drawn_images(str(tmp_path / "round"), everything)
    uris = set(drawn.rows["image_uri"].to_pylist())
    assert {one.image_uri.rpartition("/")[2] for one in kept.images} == {
        uri.rpartition("/")[2] for uri in uris
    }
    assert set(weights) == {one.image_uri for one in kept.images}
    crowded = [weights[uri] for uri in weights if int(uri[-7:-4]) < 10]
    empty = [weights[uri] for uri in weights if int(uri[-7:-4]) >= 10]
    assert max(crowded) < min(empty)
    # The weights over n estimate the number of images, before the largest ones are cut.
    mean = sum(weights.values()) / len(weights)
    assert max(weights.values()) <= mean * len(weights) ** 0.5 * 1.0001
    if max(weights.values()) < mean * len(weights) ** 0.5:
        assert sum(weights.values()) / 100 == pytest.approx(300, rel=0.35)


def test_drawn_images_without_labels_are_refused(tmp_path: Path, drawn: sample.Sample) -> None:
    uris = list(dict.fromkeys(drawn.rows["image_uri"].to_pylist()))
    with pytest.raises(UserError, match=f"1 of the {len(uris)} drawn images have none"):
        drawn_images(str(tmp_path / "round"), labelled(uris[1:]))


def test_labels_may_lie_apart_from_their_images() -> None:
    config = CalibrateConfig(checkpoint="m", data="labels", images_at="images", output="o")
    assert (config.labels_at, config.images_apart) == ("labels", "images")
