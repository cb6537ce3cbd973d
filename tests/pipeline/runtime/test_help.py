"""The layout of --help, for a config of a few fields."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from typing import ClassVar, Literal

import pytest

from pipeline.config import TrainConfig
from pipeline.runtime.flags import Group, Groups, Uri, read_flags
from pipeline.runtime.help import render

Numbers = make_dataclass(
    "Numbers",
    [("momentum", float | Literal["null"] | None, None)],
    namespace={
        "__doc__": "Numbers.\n\nAttributes:\n    momentum: Share of the last step that is kept.\n"
    },
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    images: Uri
    """What to score, in a sentence
    that the docstring breaks."""
    size: int = 100_000
    """Largest size."""
    mode: Literal["fast", "small"] = "fast"
    """How to look."""
    names: tuple[str, ...] = ()
    """Class names."""
    shares: tuple[float, float] = (0.5, 0.25)
    """Two shares."""
    share: float | None = None
    """One share."""
    dry_run: bool = False
    """Write nothing."""
    solver: Numbers = field(default_factory=Numbers)  # type: ignore[valid-type]
    """Numbers of the solver."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Looking", common=("mode", "names"), more=("size", "shares", "share")),
        Group(title="Run", common=("dry_run",)),
    )


HELP = """\
usage: job --images URI [flags]

Does work.

On a cluster:

  ray job submit --working-dir . -- python \\
      jobs/a_job_with_a_long_name.py ...

Required:
  --images URI            What to score, in a sentence
                          that the docstring breaks.

Looking:
  --mode fast|small       How to look. (default: fast)
  --names TEXT ...        Class names.

Run:
  --dry-run               Write nothing.

--help-all shows 4 more flags.

Exit codes: 0, the job is done. 1, the job failed; the
same command continues it. 2, the command, or something
that it names, must be changed; one line says what and
how.
"""

MORE = """\
Looking:
  --mode fast|small       How to look. (default: fast)
  --names TEXT ...        Class names.
  --size N                Largest size. (default:
                          100_000)
  --shares X X            Two shares. (default: 0.5
                          0.25)
  --share X               One share.

Run:
  --dry-run               Write nothing.

Numbers of the solver (--solver.X):
  --solver.momentum X     Share of the last step that is
                          kept.

Exit codes"""


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "56")


DESCRIPTION = """Does work.

On a cluster:

  ray job submit --working-dir . -- python jobs/a_job_with_a_long_name.py ...
"""


def test_help_shows_common_flags_in_groups_and_breaks_no_sentence() -> None:
    assert render(Config, "job", DESCRIPTION, everything=False) == HELP


def test_help_all_shows_the_other_flags_and_a_group_for_each_nested_class() -> None:
    assert MORE in render(Config, "job", DESCRIPTION, everything=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Odd:
    """No flag can have a dict or one of two types."""

    table: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Two:
    """As `Odd`."""

    either: int | str = 0


@pytest.mark.parametrize("config", [Odd, Two])
def test_a_field_of_a_type_that_no_flag_can_have_is_refused(config: type) -> None:
    with pytest.raises(TypeError, match="no flag has values of this type|a flag has values of one"):
        read_flags(config)


def test_the_letters_of_the_sources_are_explained() -> None:
    text = render(TrainConfig, "train", "Train.", everything=True)
    assert "F is rbgirshick/fast-rcnn" in " ".join(text.split())
