"""Keeps a job from waiting for ever for Ray Data's list of where its actors are.

Ray Data asks an actor for this list once a second, without a limit of time, by a handle that it makes anew
and drops each time (Ray 2.60, `_NodeAwareActorPool`). Once, the answer never came, and the loop of Ray Data
stood still. The log of the driver had a first handle that was dropped while the actor was created, and no
notification that the actor runs, although it did. So the driver holds a handle from before the start to the
end, and goes on once the actor has answered. That the dropped handle was the cause is likely, not proven.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from pipeline.errors import JobError

ANSWER_S = 180.0
"""Time to start the actor. On a busy machine, a process takes a minute to start."""


@contextmanager
def hold_actor_locations() -> Iterator[None]:
    """Hold the actor inside the context. Without effect in a version of Ray that has no such actor.

    Raises:
        JobError: the actor does not answer.
    """
    try:
        from ray.data._internal.execution.node_trackers import actor_location
    except ImportError:
        yield
        return
    tracker = actor_location.get_or_create_actor_location_tracker()  # type: ignore[no-untyped-call]
    try:
        with suppress(RayActorError):  # Ray Data meets it again, and says what it means
            ray.get(tracker.get_actor_locations.remote([]), timeout=ANSWER_S)
    except GetTimeoutError as error:
        raise JobError(
            f"an actor of Ray Data (ActorLocationTracker) gave no answer within {ANSWER_S:g} s. Run the same"
            " command again: it continues"
        ) from error
    yield
    del tracker
