"""The exception a user reads."""

from __future__ import annotations

import pickle

from pipeline.errors import UserError


def test_a_user_error_is_one_line_here_and_in_another_process() -> None:
    error = UserError("--split\nholdout", "there is none", "There are: train.")
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert str(one) == "--split holdout: there is none. There are: train."
