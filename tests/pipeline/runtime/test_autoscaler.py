"""`ray status` tells whether a cluster starts nodes, and which."""

from __future__ import annotations

import pytest

from pipeline.runtime.autoscaler import Status, parse_status

AUTOSCALED = """======== Autoscaler status: 2026-11-30 02:37:08.004441 ========
Node status
---------------------------------------------------------------
Active:
 1 head
 2 cpu
Idle:
 1 gpu.large
Pending:
 gpu.large, 1 launching
 10.0.0.7: cpu, setting-up
Recent failures:
 gpu.small: InsufficientCapacity (latest_attempt: 02:30:00)

Resources
---------------------------------------------------------------
Total Usage:
 0.0/4.0 CPU

Pending Demands:
 {'GPU': 1.0}: 1+ from request_resources()
"""
HEAD_ALONE = """======== Autoscaler status: 2026-11-30 02:37:08.004441 ========
Node status
---------------------------------------------------------------
Active:
 (no active nodes)
Pending:
 (no pending nodes)
Recent failures:
 (no failures)
"""
BY_HAND = HEAD_ALONE.replace("(no active nodes)", f"1 node_{'0a' * 28}")
NONE_YET = "No cluster status. It may take a few seconds for the Ray internal services to start up."


def test_types_pending_nodes_and_failures_are_read() -> None:
    assert parse_status(AUTOSCALED) == Status(
        is_known=True,
        types=frozenset({"head", "cpu", "gpu.large"}),
        pending=("gpu.large, 1 launching", "10.0.0.7: cpu, setting-up"),
        failures=("gpu.small: InsufficientCapacity (latest_attempt: 02:30:00)",),
    )


@pytest.mark.parametrize(
    ("text", "starts"),
    [(AUTOSCALED, True), (HEAD_ALONE, True), (BY_HAND, False), (NONE_YET, False), ("", False)],
)
def test_a_cluster_that_was_put_together_by_hand_starts_no_nodes(text: str, starts: bool) -> None:
    assert parse_status(text).starts_nodes == starts


def test_only_a_type_that_never_came_is_awaited_after_a_failure() -> None:
    """A node that ended, or another node of a type that is there, decides nothing."""
    gone = ("gpu: NodeTerminated (ip: 10.0.0.7)", "cpu: LaunchFailed (latest_attempt: 02:30:00)")
    assert not Status(types=frozenset({"cpu"}), failures=gone).is_starting(())
    assert Status(types=frozenset({"head"}), failures=gone[1:]).is_starting(())
    assert Status(types=frozenset({"cpu"}), pending=("gpu, 1 launching",)).is_starting(())


def test_a_node_that_is_there_is_not_awaited_though_the_autoscaler_calls_it_pending() -> None:
    status = Status(pending=("10.0.0.7: cpu, uninitialized",))
    assert status.is_starting({"10.0.0.4"})
    assert not status.is_starting({"10.0.0.4", "10.0.0.7"})


def test_the_status_says_what_fails() -> None:
    assert str(parse_status(HEAD_ALONE)) == "the autoscaler starts no node"
    assert str(parse_status(AUTOSCALED)) == (
        "the autoscaler reports gpu.large, 1 launching; 10.0.0.7: cpu, setting-up; failed: gpu.small:"
        " InsufficientCapacity (latest_attempt: 02:30:00)"
    )
