"""The losses of a training as a picture and as log lines, with and without an RPN."""

from __future__ import annotations

import pytest

from pipeline.drawing.curves import loss_curves
from pipeline.training.board import ProgressLines

ROW = {
    "iteration": 1, "loss": 1.0, "classification": 0.6, "localization": 0.1, "learning_rate": 0.01,
    "rois": 64.0, "foreground": 0.25, "seconds": 0.5, "waited": 0.1,
}  # fmt: skip
RPN = {"loss_objectness": 0.25, "loss_rpn_box": 0.05}


@pytest.mark.parametrize("more", [{}, RPN])
def test_a_step_is_drawn_and_logged_with_the_losses_it_has(
    more: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**ROW, **more, "iteration": n} for n in (1, 2)]
    assert loss_curves({"steps": rows, "validations": []}).startswith(b"\x89PNG")
    lines = ProgressLines(2, 4, 2)
    with caplog.at_level("INFO"):
        for row in rows:
            lines.step(row)
    assert "class 0.600, box 0.100" in caplog.text
    assert ("objectness 0.250, anchor box 0.050" in caplog.text) == bool(more)
