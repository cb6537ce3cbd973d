"""Flags that are wrong, missing or have bad values are refused in one line; the others reach the config."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Literal

import pytest

from pipeline.errors import UserError
from pipeline.runtime.arguments import nearest, parse_arguments
from pipeline.runtime.flags import Uri

DOC = """Numbers that nested flags set.

Attributes:
    scale: Shorter side.
    test_scales: Scales at test.
    flips: Look at mirrored images too.
"""
Numbers = make_dataclass(
    "Numbers",
    [
        ("scale", int | Literal["null"] | None, None),
        ("test_scales", tuple[int, ...] | None, None),
        ("flips", bool | None, None),
    ],
    frozen=True,
    kw_only=True,
    slots=True,
    namespace={"__doc__": DOC},
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    images: Uri
    """Images."""
    output: Uri
    """Output."""
    include: tuple[str, ...] = ()
    """Globs."""
    shares: tuple[float, float] = (0.25, 0.5)
    """Two shares."""
    batch_size: int = 8
    """Images per pass."""
    limit: int | None = None
    """Most images."""
    format: Literal["coco", "voc"] = "coco"
    """A format."""
    dry_run: bool = False
    """Write nothing."""
    folder: Path | None = None
    """A folder."""
    model: Numbers = field(default_factory=Numbers)  # type: ignore[valid-type]
    """Numbers of the model."""


PLACES = ("--images", "in", "--output", "out")


def parsed(*words: str) -> Config:
    return parse_arguments(Config, [*PLACES, *words], "job")


def refused(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_arguments(Config, words, "job")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_wrong_flag_is_named_with_the_nearest_one_and_the_missing_ones() -> None:
    assert refused("--img", "in") == (
        "--img: no such flag. Did you mean --images? Also missing: --output. (job --help-all lists all)"
    )


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--batchsize", "--batch-size"),
        ("--lim", "--limit"),
        ("--model.scal", "--model.scale"),
        ("--test-scales", "--model.test-scales"),
        ("-images", "--images"),
        ("--bach", "--batch-size"),
        ("--LIMIT", "--limit"),
        ("--solver.scale", "--model.scale"),
    ],
)
def test_the_flag_that_was_probably_meant_is_named(given: str, meant: str) -> None:
    assert f"{given}: no such flag. Did you mean {meant}?" in refused(*PLACES, given, "3")


def test_synonyms_of_other_programs_are_known() -> None:
    assert nearest("--lr", ("--limit", "--learning-rate")) == "--learning-rate"
    assert nearest("--num-gpus", ("--num-workers", "--gpus-per-worker")) == "--gpus-per-worker"


def test_a_number_of_the_model_is_given_by_set_where_it_has_no_flag() -> None:
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Short:
        set: tuple[str, ...] = ()
        """Numbers."""

    with pytest.raises(UserError, match="Numbers are given as --set max_size=VALUE."):
        parse_arguments(Short, ["--model.max-size", "3"], "job")


def test_a_group_of_flags_is_not_a_flag() -> None:
    line = refused(*PLACES, "--model", "tiny")
    assert line.startswith("--model: no such flag. --model begins")
    assert "Did you mean" not in line


def test_a_value_with_a_hyphen_is_written_after_an_equals_sign() -> None:
    line = refused("--output", "out", "--images", "-x")
    assert "-x: no such flag. If -x is a value, write --images=-x." in line
    assert "Did you mean" not in refused(*PLACES, "--include", "-a", "b")


@pytest.mark.parametrize("dash", ["\u2013", "\u2014"])
def test_a_typographic_dash_is_named(dash: str) -> None:
    line = refused(*PLACES, f"{dash}limit", "3")
    assert f"begins with the typographic dash {dash}, not with a hyphen. Write --limit." in line


def test_two_folders_are_not_taken_for_an_expanded_pattern(tmp_path: Path) -> None:
    folders = [tmp_path / "JPEGImages", tmp_path / "Annotations"]
    for folder in folders:
        folder.mkdir()
    line = refused("--output", "out", "--images", *map(str, folders))
    assert line.endswith("Give one of them, or a pattern in quotes that matches all.")


def test_a_config_may_check_which_flags_are_given() -> None:
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Asking:
        limit: int = 3
        """A number."""

        def check_given(self, names: set[str]) -> None:
            if "limit" in names:
                raise UserError("--limit", "is given", "")

    assert parse_arguments(Asking, [], "job") == Asking()
    with pytest.raises(UserError, match="--limit: is given"):
        parse_arguments(Asking, ["--limit", "3"], "job")


def test_several_wrong_flags_are_named_together() -> None:
    said = refused(*PLACES, "--limt", "3", "--weights")
    assert said.startswith("--limt, --weights: no such flags. Did you mean --limit? (")


def test_all_groups_that_are_given_as_flags_are_explained() -> None:
    two_groups = make_dataclass(
        "TwoGroups",
        [(name, Numbers, field(default_factory=Numbers)) for name in ("model", "solver")],
    )
    for words, hint in (
        (["--model", "4"], "--model begins the names of several flags, as in --model.X."),
        (
            ["--solver", "--model"],
            "--model and --solver begin the names of several flags, as in --model.X.",
        ),
    ):
        with pytest.raises(UserError) as caught:
            parse_arguments(two_groups, words, "job")
        assert hint in str(caught.value)


def test_missing_flags_are_named() -> None:
    assert refused().startswith("--images, --output: are required and missing.")
    assert refused("--images", "x").startswith("--output: is required and missing.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--batch-size x", "--batch-size: 'x' was given, expected an integer."),
        ("--batch-size=3.0", "--batch-size: '3.0' was given, expected an integer."),
        ("--batch-size", "--batch-size: no value was given, expected an integer."),
        ("--limit 1 2", "--limit: 2 values were given, expected one integer."),
        ("--shares .5 half", "--shares: 'half' was given, expected a number."),
        ("--shares .5", "--shares: '.5' was given, expected X X."),
        ("--format yolo", "--format: 'yolo' was given, expected one of coco, voc."),
        ("--dry-run yes", "--dry-run: 'yes' was given, expected no value."),
        ("--dry-run=3", "--dry-run: '3' was given, expected no value."),
        ("--model.flips 2", "--model.flips: '2' was given, expected true or false."),
        ("--model.test-scales 4 x", "--model.test-scales: 'x' was given, expected an integer."),
    ],
)
def test_a_value_that_does_not_fit_is_shown_with_what_was_expected(words: str, said: str) -> None:
    assert refused(*PLACES, *words.split()).startswith(said)


def test_a_value_before_the_first_flag_is_refused() -> None:
    assert refused("s3://b/x", *PLACES).startswith(
        "'s3://b/x': is a value without a flag before it."
    )


def test_a_pattern_that_the_shell_expanded_is_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Path(name).touch()
    said = refused("--images", "a.jpg", "b.jpg", "c.jpg", "--output", "out")
    assert said.startswith("--images: 3 values were given, expected one URI.")
    assert said.endswith("Put the pattern in quotes, as in --images '*.jpg'")
    assert "quotes" not in refused("--images", "a.jpg", "other", "--output", "out")


def test_flags_are_spelled_with_hyphens_underscores_and_equals_signs() -> None:
    expected = Config(images="in", output="out", batch_size=4, dry_run=True)
    for words in (
        ["--batch-size", "4", "--dry-run"],
        ["--batch_size", "4", "--dry_run"],
        ["--batch-size=4", "--dry-run"],
    ):
        assert parsed(*words) == expected
    assert parsed("--model.test_scales", "4", "5").model.test_scales == (4, 5)


def test_a_list_flag_given_twice_adds_up() -> None:
    assert parsed("--include", "a", "b", "--include", "c").include == ("a", "b", "c")
    assert parsed("--include", "--include=c").include == ("c",)
    assert parsed("--model.test-scales", "4", "--model.test_scales", "5").model.test_scales == (
        4,
        5,
    )


def test_a_flag_of_one_value_may_be_given_twice_with_the_same_value_only() -> None:
    assert parsed("--limit", "1", "--limit=1").limit == 1
    assert parsed("--dry-run", "--dry-run").dry_run
    line = refused(*PLACES, "--limit", "1", "--limit=2")
    assert line == "--limit: was given twice, with 1 and 2. Give it once."


def test_negative_numbers_and_odd_words_are_values() -> None:
    assert parsed("--limit", "-3").limit == -3
    assert parsed("--shares", "-inf", "1e-3").shares == (float("-inf"), 0.001)
    assert parsed("--include=-x", "y z", "a=b").include == ("-x", "y z", "a=b")
    assert parsed("--include").include == ()


def test_nested_flags_are_none_until_given_and_booleans_are_written_in_any_case() -> None:
    assert parsed().model == Numbers()
    assert parsed("--model.flips", "false", "--model.scale", "400").model == Numbers(
        flips=False, scale=400
    )
    assert parsed("--model.flips", "True").model.flips is True
    assert parsed("--model.flips", "0").model.flips is False


def test_numbers_of_a_list_may_have_commas_between() -> None:
    assert parsed("--model.test-scales", "48,64", "80").model.test_scales == (48, 64, 80)
    assert parsed("--shares", "0.1,0.2").shares == (0.1, 0.2)


def test_a_word_is_accepted_instead_of_a_number() -> None:
    assert parsed("--model.scale", "null").model.scale == "null"
    assert "--model.scale: 'nul' was given, expected an integer or null." in refused(
        *PLACES, "--model.scale", "nul"
    )


def test_none_is_accepted_if_the_field_is_optional() -> None:
    assert parsed("--limit", "None").limit is None
    assert "expected an integer" in refused(*PLACES, "--batch-size", "None")


def test_the_home_folder_is_expanded_in_local_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert parsed("--folder=~/x").folder == Path("/home/someone/x")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """Only tyro finds this mistake: the nested class raises a ValueError."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Inner:
        size: int = 1
        """A size."""

        def __post_init__(self) -> None:
            if self.size < 1:
                raise ValueError(f"size={self.size}: must be at least 1")

    inner: Inner = field(default_factory=Inner)
    """Numbers."""


def test_an_error_of_a_nested_class_is_one_line() -> None:
    with pytest.raises(UserError, match="size=0: must be at least 1") as caught:
        parse_arguments(Checked, ["--inner.size", "0"], "job")
    assert "\n" not in str(caught.value)
    assert "─" not in str(caught.value)
