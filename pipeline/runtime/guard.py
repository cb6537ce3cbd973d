"""The guard around one image: whatever goes wrong with an image becomes a row, and the others go on.

An exception that nobody foresaw: The images of the batch are tried one at a time. The image whose work raises
again gets the status `failed` with the cause. This is the only place of the pipeline that catches every
exception. The driver counts such rows and stops the job if there are too many (`pipeline.scoring.gate`).

A process that dies: Ray Data gives the batch of a dead worker to the next worker, without a limit. So a
worker reports when it begins a batch and that it has finished it (`pipeline.runtime.attempts`). If a worker
gets a batch that was begun and never finished, a process died with this batch, because of the batch or for
another reason. The worker then processes the images one at a time and reports each of them. An image that
kills its process three times gets the status `failed`.

KeyboardInterrupt and SystemExit end the process. So do errors after which the process can do no more work: a
broken CUDA context, and memory that a worker does not get.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import ray

from fastrcnn.gpu_errors import breaks_the_gpu
from pipeline.errors import JobError, StorageError, UserError, one_line, text_of
from pipeline.runtime.attempts import Attempts

logger = logging.getLogger(__name__)

TRIES_ALONE = 2
"""How often an image is tried alone, after it was tried once in its batch."""
_NO_MEMORY = "DefaultCPUAllocator"
"""Text of torch's error when the CPU has no memory left. Torch has no exception class for it; the text comes
from `c10/core/impl/alloc_cpu.cpp`."""
_NO_END = (asyncio.CancelledError, GeneratorExit)
"""Exceptions of Python's that are no `Exception`, and yet do not mean that the process shall end."""
_TRACEBACK_CHARACTERS = 6000
_LOGGED = 3
"""Tracebacks that one process logs. The rows carry all causes."""
_logged = itertools.count()


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why an image has no result."""

    cause: str
    """One line, for the column `error`."""
    status: str = "failed"
    """`failed`, or the status of a StorageError."""
    traceback: str | None = None
    """The traceback of an exception that nobody foresaw."""


def attempt(
    rows: pa.Table,
    work: Callable[[pa.Table], pa.Table],
    fail: Callable[[pa.Table, Failure], pa.Table],
    *,
    stage: str,
    attempts: Attempts,
    alone: Callable[[pa.Table], pa.Table] | None = None,
    next_follows: bool = False,
) -> pa.Table:
    """Do `work` on a batch. If it raises, or if a process died with this batch, do it image by image.

    Args:
        rows: the batch, with a column image_uri.
        work: turns rows into as many result rows.
        fail: turns one row and the failure into a result row, for an image whose work raises, or that was
            tried `1 + TRIES_ALONE` times.
        stage: the name of the stage; batches of different stages are counted separately.
        attempts: the counts, shared by the workers.
        alone: is called instead of `work` for each image that is tried alone, and takes more care. None means
            `work`.
        next_follows: the process gets its next batch at once, and the end of this one is reported with it. If
            the process dies between the two and its output is lost, this batch is repeated image by image.
            No image fails for it: the end of an image that is tried alone is reported at once.

    Returns:
        The result rows, one for each row of the batch.
    """
    if rows.num_rows == 0:
        return work(rows)
    batch = f"{stage} {rows.num_rows} {rows['image_uri'][0].as_py()}"
    results: list[pa.Table] = []
    if attempts.begin(batch) == 0:
        together = _guarded(work, rows, attempts)
        if isinstance(together, pa.Table):
            results = [together]
        del together  # an exception keeps the batch alive, with its tensors and threads
    if not results:
        results = [
            _attempt_alone(rows.slice(i, 1), alone or work, fail, stage=stage, attempts=attempts)
            for i in range(rows.num_rows)
        ]
    (attempts.end_with_next if next_follows else attempts.end)(batch)
    return pa.concat_tables(results)


def _attempt_alone(
    row: pa.Table,
    work: Callable[[pa.Table], pa.Table],
    fail: Callable[[pa.Table, Failure], pa.Table],
    *,
    stage: str,
    attempts: Attempts,
) -> pa.Table:
    key = f"{stage} alone {row['image_uri'][0].as_py()}"
    died = attempts.begin(key)
    if died >= TRIES_ALONE:
        attempts.end(key)
        cause = f"its process died each of {1 + died} times at stage {stage!r}"
        return fail(row, Failure(cause=cause))
    result = _guarded(work, row, attempts)
    attempts.end(key)
    if isinstance(result, pa.Table):
        return result
    if next(_logged) < _LOGGED:
        logger.error("%s: its row gets an error at stage %r", key, stage, exc_info=result)
    return fail(row, _failure(result))


def _guarded(
    work: Callable[[pa.Table], pa.Table], rows: pa.Table, attempts: Attempts
) -> pa.Table | BaseException:
    """Return the result of `work`, or the exception that it raised."""
    try:
        return work(rows)
    except (Exception, *_NO_END) as error:
        if isinstance(error, MemoryError | RuntimeError) and _ends_the_worker(error):
            attempts.cannot_continue(error)
        return error


def _ends_the_worker(error: MemoryError | RuntimeError) -> bool:
    text = text_of(error)
    return isinstance(error, MemoryError) or _NO_MEMORY in text or breaks_the_gpu(text)


def _failure(error: BaseException) -> Failure:
    if isinstance(error, StorageError):
        return Failure(cause=_printable(one_line(error)), status=error.status)
    if isinstance(error, UserError | JobError):  # the message says it all
        return Failure(cause=_printable(one_line(error)))
    name, text = type(error).__name__, text_of(error)
    lines = "".join(traceback.format_exception(error))
    return Failure(
        cause=_printable(one_line(f"{name}: {text}" if text else name)),
        traceback=_printable(lines[-_TRACEBACK_CHARACTERS:]),
    )


def _printable(text: str) -> str:
    """Replace what is not UTF-8, such as bytes of a file name, which no Arrow column can hold."""
    return text.encode("utf-8", "backslashreplace").decode()


@functools.cache
def node_name() -> str:
    """Name the machine of this process, for messages."""
    name = socket.gethostname()
    if not ray.is_initialized():  # the next call would start Ray
        return name
    try:
        return f"{name} (Ray node {ray.get_runtime_context().get_node_id()[:12]})"
    except AttributeError:  # this process has no connection to a node
        return name
