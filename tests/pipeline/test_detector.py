"""The library detector: images -> `Detections`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from fastrcnn.config import ProposalConfig
from fastrcnn.detection import Detections as Found
from fastrcnn.detection import ScoredImage
from pipeline import Detections, Detector
from pipeline.config import Precision
from pipeline.detector.network import Network
from pipeline.images import ImageError
from pipeline.scoring.detector import DetectorActor
from pipeline.storage import ObjectMissing
from tests.pipeline.record_cases import candidates_of
from tests.pipeline.tiff_bytes import Page, write_tiff

PIXELS = np.arange(30 * 40 * 3, dtype=np.uint8).reshape(30, 40, 3)


@pytest.fixture
def candidates(tmp_path: Path) -> pa.Table:
    """Two images and a broken file between them; the files stay in tmp_path."""
    return candidates_of(tmp_path, ProposalConfig(name="grid", max_boxes=12))


@pytest.fixture
def three_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that finds the same three boxes in each image."""

    def detect(
        model: object, pixels: Sequence[object], *_: object, **__: object
    ) -> list[ScoredImage]:
        boxes = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]])
        scores = torch.tensor([0.75, 0.5, 0.25])
        found = Found(boxes, torch.tensor([2, 1, 2]), scores)
        return [ScoredImage(found, 30) for _ in pixels]

    monkeypatch.setattr("pipeline.detector.network.detect_counting", detect)


def with_points(checkpoint: Path, folder: Path, points: object) -> Path:
    """A copy of a checkpoint whose config.json has operating points."""
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"operating_points": points}))
    return folder


@pytest.mark.usefixtures("three_boxes")
def test_one_image_gives_one_result_and_a_list_a_list(tiny_checkpoint: Path) -> None:
    detector = Detector(tiny_checkpoint, min_score=0)
    expected = Detections(
        labels=["dog", "cat", "dog"],
        label_ids=[2, 1, 2],
        scores=[0.75, 0.5, 0.25],
        boxes=[[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]],
    )
    assert detector(PIXELS) == expected
    assert detector([PIXELS]) == [expected]
    assert detector((PIXELS, PIXELS)) == [expected, expected]
    assert detector([]) == []
    assert detector.detect([PIXELS])[0][1] == {
        "label": "cat", "label_id": 1, "score": 0.5, "x_min": 5, "y_min": 6, "x_max": 7, "y_max": 8,
    }  # fmt: skip


@pytest.mark.usefixtures("three_boxes")
@pytest.mark.parametrize(
    ("min_score", "scores"),
    [(None, [0.75, 0.5]), (0, [0.75, 0.5, 0.25]), (0.6, [0.75]), (0.25, [0.75, 0.5, 0.25])],
)
def test_detections_start_at_min_score_and_dictionaries_hold_every_box(
    tiny_checkpoint: Path, min_score: float | None, scores: list[float]
) -> None:
    detector = Detector(tiny_checkpoint, min_score=min_score)
    assert detector(PIXELS).scores.tolist() == scores
    assert len(detector.detect([PIXELS])[0]) == 3


@pytest.mark.usefixtures("three_boxes")
@pytest.mark.parametrize(
    ("points", "min_score", "kept"),
    [
        ({"cat": 0.6, "dog": 0.2}, None, ["dog 0.75", "dog 0.25"]),
        ({"dog": 0.2}, None, ["dog 0.75", "cat 0.5", "dog 0.25"]),  # a cat starts at .5
        ({"cat": None, "dog": 0.8}, None, ["cat 0.5"]),
        ({"cat": 0.6, "dog": 0.2}, 0.5, ["dog 0.75", "cat 0.5"]),
    ],
)
def test_detections_start_at_the_operating_point_of_each_class(
    tiny_checkpoint: Path, tmp_path: Path, points: object, min_score: float | None, kept: list[str]
) -> None:
    checkpoint = with_points(tiny_checkpoint, tmp_path / "checkpoint", points)
    detections = Detector(checkpoint, min_score=min_score)(PIXELS)
    assert [f"{one.label} {one.score:g}" for one in detections] == kept


@pytest.mark.parametrize("min_score", [-0.1, float("nan"), True, "0.5"])
def test_a_min_score_that_is_no_score_is_refused(tiny_checkpoint: Path, min_score: Any) -> None:
    with pytest.raises(
        ValueError, match=r"min_score is .*: expected a number of 0 or more, or None"
    ):
        Detector(tiny_checkpoint, min_score=min_score)


def test_min_score_0_keeps_negative_scores_too(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def detect(*_: object, **__: object) -> list[ScoredImage]:  # as a classifier of SVMs scores
        found = Found(torch.ones(1, 4), torch.tensor([1]), torch.tensor([-0.5]))
        return [ScoredImage(found, 1)]

    monkeypatch.setattr("pipeline.detector.network.detect_counting", detect)
    assert Detector(tiny_checkpoint, min_score=0)(PIXELS).scores.tolist() == [-0.5]
    assert len(Detector(tiny_checkpoint)(PIXELS)) == 0


def test_every_kind_of_image_gives_the_same_detections(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    kinds = [
        str(path),
        path,
        f"file://{path}",
        path.read_bytes(),
        Image.open(path),
        PIXELS,
        torch.from_numpy(PIXELS).permute(2, 0, 1),
    ]
    detector = Detector(tiny_checkpoint, min_score=0)
    together = detector(kinds)
    assert len(together[0]) > 0
    assert [detector(kind) for kind in kinds] == together == [together[0]] * len(kinds)


def test_a_checkpoint_and_an_image_may_lie_in_the_home_folder(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").symlink_to(tiny_checkpoint)
    Image.effect_noise((60, 40), 40).convert("RGB").save(tmp_path / "a.png")
    detector = Detector("~/model")
    assert detector.detect(["~/a.png"]) == detector.detect([tmp_path / "a.png"])


def test_detect_gives_the_boxes_that_a_scoring_run_writes(
    candidates: pa.Table, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    detector = Detector(tiny_checkpoint, min_score=0)
    first = tmp_path / "a.png"
    pixels = np.asarray(Image.open(tmp_path / "c.png")).copy()
    given = [np.frombuffer(candidates["proposals"][i].as_py(), np.float32) for i in (0, 2)]
    proposals = [boxes.reshape(-1, 4).copy() for boxes in given]
    found = detector.detect([str(first), pixels], proposals)
    rows = DetectorActor(tiny_checkpoint)(candidates).to_pylist()
    assert [row["detections"] for row in rows] == [found[0], None, found[1]]
    assert found[0]
    by_itself = detector.detect([first, first.read_bytes(), pixels] * 4)
    assert len(by_itself) == 12
    assert by_itself[0] == by_itself[1] == by_itself[3] == by_itself[10]
    assert {box["label"] for boxes in by_itself for box in boxes} <= set(detector.classes)
    detections = detector(first, proposals[0])
    assert detections.scores.tolist() == [box["score"] for box in found[0]]
    assert detector([first, pixels], proposals)[0] == detections


def test_an_image_that_cannot_be_read_raises_an_error_that_names_it(
    candidates: pa.Table, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    detector = Detector(tiny_checkpoint)
    good, broken, missing = (tmp_path / name for name in ("a.png", "b.png", "no.png"))
    with pytest.raises(ImageError, match=rf"^image 9: {broken}: ") as caught:
        detector([good] * 9 + [broken])
    assert caught.value.status == "undecodable"
    with pytest.raises(ImageError, match=rf"^{broken}: "):
        detector(broken)
    with pytest.raises(ImageError, match=r"^image 1: not a supported image format$"):
        detector([good, b"no image"])
    with pytest.raises(ObjectMissing, match=rf"^image 1: {missing}: "):
        detector([good, missing])
    with pytest.raises(ObjectMissing, match=rf"^{missing}: "):
        detector.detect([missing])


def test_a_value_that_is_no_image_is_refused_by_kind_and_position_before_any_image_is_read(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    detector = Detector(tiny_checkpoint)
    images: list[Any] = [tmp_path / "no.png", PIXELS, np.zeros((480, 640, 3), np.float32)]
    text = r"^image 2 is a float32 array \(480, 640, 3\): expected uint8 .* multiply by 255 and convert"
    for call in (detector, detector.detect, detector.propose):
        with pytest.raises(TypeError, match=text):
            call(images)
    with pytest.raises(TypeError, match=r"^the image is a dict: expected .* several images as a"):
        detector({})  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("proposals", "text"),
    [
        ([np.zeros((0, 4), np.float32)] * 2, "proposals has 2 arrays for 1 images"),
        ([np.zeros((4, 9), np.float32)], r"the proposals of image 0 are of shape \(4, 9\): expec"),
        ([[]], "the proposals of image 0 are list: expected"),
    ],
)
def test_proposals_that_do_not_fit_are_refused(
    tiny_checkpoint: Path, proposals: Any, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        Detector(tiny_checkpoint).detect([PIXELS], proposals)


def test_an_image_too_large_for_the_gpu_raises_an_error_that_names_it(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Network._detect

    def detect(self: Network, pixels: Sequence[Any], proposals: Any) -> list[ScoredImage]:
        if any(len(one) == 99 for one in pixels):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return real(self, pixels, proposals)

    monkeypatch.setattr(Network, "_detect", detect)
    detector = Detector(tiny_checkpoint)
    large = np.zeros((99, 40, 3), np.uint8)
    with pytest.raises(RuntimeError, match=r"^image 1: CUDA out of memory"):
        detector([PIXELS, large])
    with pytest.raises(RuntimeError, match=r"^CUDA out of memory"):
        detector(large)


def test_an_rpn_proposes_the_same_for_every_kind_of_image(rpn_checkpoint: Path) -> None:
    detector = Detector(rpn_checkpoint)
    kinds: list[Any] = [PIXELS, Image.fromarray(PIXELS)] * 5
    proposed = detector.propose(kinds)
    assert len(proposed) == 10
    for boxes, scores in proposed:
        assert boxes.tolist() == proposed[0][0].tolist()
        assert len(boxes) == len(scores) > 0
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)


def test_the_package_imports_its_names_only_when_they_are_used() -> None:
    code = "import sys, pipeline; assert 'torch' not in sys.modules; pipeline.Detections; " + (
        "assert 'torch' not in sys.modules; from pipeline import Detector; "
        "import pipeline.detector; assert Detector is pipeline.detector.Detector"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    with pytest.raises(ImportError, match="cannot import name 'Detektor'"):
        from pipeline import Detektor  # type: ignore[attr-defined]  # noqa: F401


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_float32_stays_float32_on_any_machine(
    tiny_checkpoint: Path, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastrcnn.scoring_form.multiplies_bfloat16", lambda _: True)
    detector = Detector(tiny_checkpoint, precision=precision, gpu=False)
    expected = torch.bfloat16 if precision == "auto" else torch.float32
    assert {p.dtype for p in detector.network.model.backbone.parameters()} == {expected}


@pytest.mark.parametrize(("precision", "expected"), [("auto", "tf32"), ("float32", "ieee")])
def test_float32_computes_without_tf32(
    tiny_checkpoint: Path, precision: Precision, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def detect(_: object, pixels: Sequence[object], *__: object, **___: object) -> list[object]:
        seen.append(torch.backends.cudnn.conv.fp32_precision)
        return [ScoredImage(Found(torch.ones(1, 4), torch.tensor([1]), torch.ones(1)), 1)]

    monkeypatch.setattr("pipeline.detector.network.detect_counting", detect)
    Detector(tiny_checkpoint, precision=precision)(PIXELS)
    assert seen == [expected]
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"


def test_the_range_and_the_bands_of_the_training_are_used_unless_others_are_given(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    trained = tmp_path / "trained"
    shutil.copytree(tiny_checkpoint, trained)
    config = json.loads((trained / "config.json").read_text())
    config["preprocessing"] |= {"sample_range": [0, 4095], "bands": [3, 2, 1]}
    (trained / "config.json").write_text(json.dumps(config))
    deep = np.stack([np.arange(1200).reshape(30, 40) * step for step in (1, 2, 3)], axis=2)
    data = write_tiff(Page(samples=deep.astype(np.uint16)))
    shown = np.rint(deep[:, :, ::-1] * 255 / 4095).astype(np.uint8)
    whole = np.rint(deep / 257).astype(np.uint8)

    assert same(Detector(trained, min_score=0)(data), Detector(tiny_checkpoint, min_score=0)(shown))
    assert same(
        Detector(tiny_checkpoint, min_score=0)(data), Detector(tiny_checkpoint, min_score=0)(whole)
    )
    given = Detector(trained, min_score=0, range=(0, 65535), bands=(1, 2, 3))
    assert same(given(data), Detector(tiny_checkpoint, min_score=0)(whole))
    assert not same(Detector(trained, min_score=0)(data), given(data))


def same(first: Detections, second: Detections) -> bool:
    return len(first) == len(second) > 0 and bool(np.allclose(first.scores, second.scores))
