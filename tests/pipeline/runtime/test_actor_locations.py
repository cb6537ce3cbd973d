"""The driver holds Ray Data's actor for the locations of actors, and does not wait for it for ever."""

from __future__ import annotations

import pytest
import ray
from ray.data._internal.execution.node_trackers import actor_location

from pipeline.errors import JobError
from pipeline.runtime import actor_locations
from pipeline.runtime.actor_locations import hold_actor_locations


@ray.remote(num_cpus=0)
class Silent:
    """Starts, and never answers."""

    def get_actor_locations(self, ids: list[str]) -> None:
        import time

        time.sleep(600)


def test_the_actor_has_answered_before_the_job_goes_on(ray_cluster: None) -> None:
    with hold_actor_locations():
        tracker = actor_location.get_or_create_actor_location_tracker()
        assert ray.get(tracker.get_actor_locations.remote(["a"]), timeout=60) == {"a": None}


def test_an_actor_without_an_answer_ends_the_job(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = Silent.remote()
    monkeypatch.setattr(actor_location, "get_or_create_actor_location_tracker", lambda: silent)
    monkeypatch.setattr(actor_locations, "ANSWER_S", 0.5)
    with (
        pytest.raises(JobError, match=r"no answer within 0\.5 s\. Run the same"),
        hold_actor_locations(),
    ):
        pass
    ray.kill(silent)
