"""Everything that depends on a proposer's name, and how to add a proposer."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fastrcnn.config import (
    PROPOSER_SPECS,
    SELECTIVE_SEARCH_MODES,
    FieldError,
    ProposalConfig,
    ProposerSpec,
)
from fastrcnn.proposals import PROPOSERS, prepare, propose

IMAGE = np.zeros((40, 60, 3), np.uint8)
PREPARED: list[str] = []


def inner(
    image: npt.NDArray[np.uint8],
    *,
    mode: str,
    max_boxes: int,
    min_size: int,
    seed: int,
    k: tuple[int, ...],
) -> npt.NDArray[np.float32]:
    """Make one box, `k` pixels from the edges."""
    height, width = image.shape[:2]
    return np.array([[k[0], k[0], width - k[0], height - k[0]]], np.float32)[:max_boxes]


def ready() -> None:
    PREPARED.append("inner")


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the proposer above, with one entry."""
    spec = ProposerSpec(
        function=f"{__name__}:inner",
        prepare=f"{__name__}:ready",
        modes={"near": {"k": (2,)}, "far": {"k": (9,), "min_size": 5}},
        settings=("k",),
    )
    monkeypatch.setitem(PROPOSER_SPECS, "inner", spec)


@pytest.mark.usefixtures("made_up")
def test_a_proposer_is_one_function_and_one_spec() -> None:
    near = ProposalConfig(name="inner", mode="near")
    assert propose(IMAGE, near).tolist() == [[2, 2, 58, 38]]
    assert (near.k, near.min_size) == ((2,), 20)
    far = ProposalConfig(name="inner", mode="far")
    assert propose(IMAGE, far).tolist() == [[9, 9, 51, 31]]
    assert (far.k, far.min_size) == ((9,), 5)
    given = ProposalConfig(name="inner", mode="far", k=(1,))
    assert propose(IMAGE, given).tolist() == [[1, 1, 59, 39]]
    prepare(near)
    assert PREPARED == ["inner"]


@pytest.mark.usefixtures("made_up")
def test_a_mode_that_is_not_the_proposers_is_refused() -> None:
    with pytest.raises(FieldError, match="near, far, the modes of inner"):
        ProposalConfig(name="inner", mode="fast")


def test_the_specs_agree_with_the_earlier_rules_by_name() -> None:
    learned = [name for name, spec in PROPOSER_SPECS.items() if spec.learned]
    precomputed = [name for name, spec in PROPOSER_SPECS.items() if spec.precomputed]
    fitted = {name: spec.fitted_modes for name, spec in PROPOSER_SPECS.items() if spec.fitted_modes}
    assert (learned, precomputed, fitted) == (["rpn"], ["table"], {"grid": ("fast",)})
    assert PROPOSERS.keys() == PROPOSER_SPECS.keys() - {"rpn", "table"}
    modes = {name: list(spec.modes) for name, spec in PROPOSER_SPECS.items()}
    assert (
        modes
        | {
            "selective_search": ["fast", "small", "exact"],
            "opencv": ["fast", "quality"],
            "grid": ["fast", "unfitted"],
            "rpn": ["fast"],
            "table": ["fast"],
        }
        == modes
    ), "and others that are added"


@pytest.mark.parametrize("name", list(PROPOSERS))
def test_a_function_takes_the_common_settings_and_those_of_its_spec(name: str) -> None:
    taken = set(inspect.signature(PROPOSERS[name]).parameters) - {"image"}
    assert taken == {"mode", "max_boxes", "min_size", "seed", *PROPOSER_SPECS[name].settings}


@pytest.mark.parametrize("mode", list(SELECTIVE_SEARCH_MODES))
def test_a_mode_of_selective_search_fills_in_its_values(mode: str) -> None:
    config = ProposalConfig(mode=mode)
    values = SELECTIVE_SEARCH_MODES[mode]
    for name in ("min_size", "max_side", "k", "strategies"):
        assert getattr(config, name) == getattr(values, name)


@pytest.mark.parametrize("name", ["rpn", "table", "of a later version"])
def test_propose_refuses_proposers_without_a_function(name: str) -> None:
    config: Any = ProposalConfig(name=name)
    assert config.min_size == 20
    with pytest.raises(KeyError, match=f"{name} does not make boxes from an image: expected sele"):
        propose(IMAGE, config)


def test_no_module_compares_a_proposers_name() -> None:
    import fastrcnn
    import pipeline

    wrong = []
    for package in (fastrcnn, pipeline):
        for path in sorted(Path(package.__file__).parent.rglob("*.py")):
            text = path.read_text()
            names = [*(f'"{name}"' for name in PROPOSER_SPECS), "LEARNED", "TABLE"]
            wrong += [
                f"{path.name}: {n}"
                for n in names
                if f"name == {n}" in text or f"name != {n}" in text
            ]
    assert wrong == []
