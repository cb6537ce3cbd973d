"""The exceptions a user is meant to read.

    UserError      wrong flag, missing data, unreadable checkpoint: exit code 2, before any worker starts
    JobError       the job could not be done: exit code 1, running it again continues

Everything else is either a row with a status (see `pipeline.images`, `pipeline.storage`) or a bug, which
rises.
"""


class UserError(Exception):
    """Something the person at the command line can mend.

    Args:
        what: the value as it was given, e.g. ``--split holdout``.
        why: what is wrong with it.
        mend: what to do instead; often the values that would have worked.
    """

    def __init__(self, what: str, why: str, mend: str) -> None:
        super().__init__(what, why, mend)  # the arguments themselves, so that it survives pickling

    def __str__(self) -> str:
        what, why, mend = self.args
        return one_line(f"{what}: {why}. {mend}")


class JobError(Exception):
    """The job failed while it ran; one line says why. What was written stays and is whole."""


def one_line(error: object) -> str:
    """The text of an exception or of another value in one line; where there is no text, the type's name."""
    return " ".join(str(error).split()) or type(error).__name__
