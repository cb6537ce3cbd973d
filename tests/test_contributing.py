"""The code of CONTRIBUTING.md works as it stands on the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastrcnn.config.proposers import ProposerSpec
from pipeline.annotations import formats, read_labelled_images
from pipeline.annotations.formats import FORMATS
from tests.conftest import CHECKOUT

CODE = re.findall(r"```python\n(.*?)```", (CHECKOUT / "CONTRIBUTING.md").read_text(), re.DOTALL)


def names_of(word: str) -> dict[str, Any]:
    """Run the block that begins with a docstring and has this word."""
    (code,) = [code for code in CODE if code.startswith('"""') and word in code]
    names: dict[str, Any] = {"__name__": "a_module_of_the_page"}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    return names


def test_the_backbone_of_the_page_is_built() -> None:
    (spec,) = names_of("resnet18")["SPECS"]
    maps = spec.body(torch.nn.BatchNorm2d)(torch.zeros(1, 3, 64, 64))
    found = list(maps.values()) if isinstance(maps, dict) else list(maps)
    assert [one.shape[1] for one in found] == list(spec.channels)
    assert [64 // one.shape[2] for one in found] == list(spec.strides)


def test_the_proposer_of_the_page_gives_boxes() -> None:
    quarters = names_of("quarters")["quarters"]
    image = np.zeros((40, 60, 3), np.uint8)
    boxes = quarters(image, mode="fast", max_boxes=3, min_size=20, seed=0)
    assert boxes.tolist() == [[0, 0, 30, 20], [30, 0, 60, 20], [0, 20, 30, 40]]
    assert quarters(image, mode="fast", max_boxes=3, min_size=21, seed=0).shape == (0, 4)
    (entry,) = [code for code in CODE if "ProposerSpec(" in code]
    specs = eval("{" + entry + "}", {"ProposerSpec": ProposerSpec})
    assert specs["quarters"].function == "fastrcnn.proposals.quarters:quarters"


def test_the_label_format_of_the_page_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "FORMATS", (*FORMATS, names_of("BOX_TABLE")["BOX_TABLE"]))
    (tmp_path / "train.boxes").write_text("b.jpg,dog,0,0,5,6\na.jpg,cat,1,2,3,4\n")
    labelled = read_labelled_images(str(tmp_path), "train")
    assert (labelled.layout, labelled.classes) == ("boxes", ("cat", "dog"))
    assert labelled.images[0].gt_boxes.tolist() == [[1, 2, 3, 4]]
