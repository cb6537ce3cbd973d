"""What the job says when Ray Train gives up."""

from __future__ import annotations

from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from pipeline.training.fit import failure_text

TRACEBACK = """Traceback (most recent call last):
  File "/tmp/pipeline/training/loop.py", line 119, in train_loop
    _train(job)
ValueError: config.json is missing
"""


def test_each_cause_is_named_once_with_its_workers() -> None:
    failures = {
        1: RuntimeError(TRACEBACK),
        0: RuntimeError(TRACEBACK),
        2: ConnectionError("The actor died\n\tits node has died."),
    }
    assert failure_text(WorkerGroupError("all of it", failures)) == (
        "workers 0, 1: ValueError: config.json is missing;"
        " worker 2: ConnectionError: The actor died its node has died"
    )


def test_an_exception_of_several_lines_is_said_whole() -> None:
    text = f"{TRACEBACK.rstrip()}\n\nGetObject: denied\n"
    assert failure_text(WorkerGroupError("all of it", {3: RuntimeError(text)})) == (
        "worker 3: ValueError: config.json is missing GetObject: denied"
    )


def test_the_cause_of_a_controller_is_the_end_of_its_traceback() -> None:
    failure = RuntimeError(
        'ray::execute() (pid=1)\n  File "config.py", line 147\n    init()\nRuntimeError: Gloo: refused.'
    )
    assert failure_text(ControllerError(failure)) == "RuntimeError: Gloo: refused"
