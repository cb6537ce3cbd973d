"""The exceptions that a user reads, and their texts."""

from __future__ import annotations

import pickle

from pipeline.errors import UserError, one_line


def test_a_user_error_is_one_line_here_and_in_another_process() -> None:
    error = UserError("--split\nholdout", "there is none", "There are: train.")
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert str(one) == "--split holdout: there is none. There are: train."


def test_the_text_of_an_error_is_one_line_and_never_empty() -> None:
    assert one_line(OSError("two\n  lines ")) == "two lines"
    assert one_line(MemoryError()) == "MemoryError"
