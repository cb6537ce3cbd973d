"""Labelled images are matched with rows by URI."""

from __future__ import annotations

import pytest

from pipeline.errors import UserError
from pipeline.results.image_matching import match_images


def test_images_are_matched_by_their_full_uri() -> None:
    scored = ["s3://b/x/1.jpg", "s3://b/y/1.jpg", "s3://b/y/2.jpg"]
    assert match_images(["s3://b/y/2.jpg", "s3://b/x/1.jpg"], scored, "run r") == [2, 0]


def test_images_in_another_folder_are_matched_by_their_file_name() -> None:
    assert match_images(
        ["/labels/2.jpg", "/labels/1.jpg"], ["s3://b/1.jpg", "s3://b/2.jpg"], "r"
    ) == [
        1,
        0,
    ]


def test_equal_file_names_are_matched_by_the_longest_common_end() -> None:
    scored = ["s3://b/in/day/1.jpg", "s3://b/in/night/1.jpg", "s3://b/other/night/1.jpg"]
    assert match_images(["/in/day/1.jpg", "/in/night/1.jpg"], scored, "r") == [0, 1]


def test_two_equal_matches_are_refused_and_both_named() -> None:
    with pytest.raises(UserError, match=r"/labels/1.jpg: may be s3://b/x/1.jpg or s3://b/y/1.jpg"):
        match_images(["/labels/1.jpg"], ["s3://b/x/1.jpg", "s3://b/y/1.jpg"], "r")


def test_two_images_never_share_a_row() -> None:
    with pytest.raises(UserError, match=r"s3://b/1.jpg: may be /x/1.jpg or /y/1.jpg"):
        match_images(["/x/1.jpg", "/y/1.jpg"], ["s3://b/1.jpg"], "r")


def test_an_image_that_was_not_scored_is_named_and_counted() -> None:
    with pytest.raises(UserError, match=r"/l/3.jpg: has no row in run r; 2 of the 3 labelled"):
        match_images(["/l/1.jpg", "/l/3.jpg", "/l/4.jpg"], ["s3://b/1.jpg"], "run r")


def test_if_full_uris_match_a_file_of_the_same_name_elsewhere_does_not() -> None:
    # 2.jpg was deleted from day/ before scoring; night/2.jpg is another picture.
    with pytest.raises(UserError, match=r"s3://b/day/2.jpg: has no row"):
        match_images(
            ["s3://b/day/1.jpg", "s3://b/day/2.jpg"],
            ["s3://b/day/1.jpg", "s3://b/night/2.jpg"],
            "r",
        )


def test_a_file_name_with_the_same_end_is_another_file() -> None:
    with pytest.raises(UserError, match="has no row"):
        match_images(["/l/1.jpg"], ["s3://b/11.jpg"], "r")


def test_keys_are_compared_byte_for_byte() -> None:
    assert match_images(["/l/a b%20#?.jpg"], ["s3://b/a b .jpg", "s3://b/a b%20#?.jpg"], "r") == [1]
    assert match_images([], ["s3://b/1.jpg"], "r") == []
