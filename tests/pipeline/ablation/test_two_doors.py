"""Tests that ablate refuses two values for one number, also where a flag repeats its default."""

from __future__ import annotations

import pytest

from pipeline.ablation.config import AblateConfig
from pipeline.errors import UserError
from pipeline.runtime.arguments import parse_arguments

PLACES = ["--data", "d", "--output", "o"]


@pytest.mark.parametrize("epochs", ["11", "12"])
def test_a_flag_and_set_with_different_values_are_refused(epochs: str) -> None:
    with pytest.raises(UserError, match=rf"^--epochs {epochs}.0 --set epochs=3: solver.epochs has"):
        parse_arguments(AblateConfig, [*PLACES, "--epochs", epochs, "--set", "epochs=3"], "job")


def test_set_alone_or_the_same_value_twice_is_accepted() -> None:
    alone = parse_arguments(AblateConfig, [*PLACES, "--set", "epochs=3"], "job")
    assert alone.effective_flags(False).epochs == 3
    parse_arguments(AblateConfig, [*PLACES, "--epochs", "12", "--set", "epochs=12"], "job")
