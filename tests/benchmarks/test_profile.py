from __future__ import annotations

import pytest
import torch
from torchvision.ops import nms

from benchmarks.profile import kind_of, share_line, shares


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::mkldnn_convolution", "convolutions"),
        ("aten::addmm", "products"),
        ("aten::mkldnn_linear", "products"),
        ("torchvision::nms", "suppression"),
        ("torchvision::roi_align", "pooling"),
        ("aten::copy_", "copies"),
        ("aten::relu", "rest"),
    ],
)
def test_the_kind_of_an_operator_follows_from_its_name(operator: str, kind: str) -> None:
    assert kind_of(operator) == kind


def test_shares_add_up_and_the_slowest_kind_has_the_largest() -> None:
    square, boxes = torch.rand(700, 700), torch.tensor([[0.0, 0, 9, 9]])

    def work() -> None:
        for _ in range(5):
            torch.mm(square, square)
        nms(boxes, torch.ones(1), 0.5)

    by_kind = shares(work, torch.device("cpu"))
    assert sum(by_kind.values()) == pytest.approx(1)
    assert by_kind["products"] > 0.5 > by_kind["suppression"] > 0
    assert by_kind["convolutions"] == 0
    assert share_line(by_kind).startswith("convolutions 0%, products ")
