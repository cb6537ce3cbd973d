"""Asks Ray for the most resources that a cluster can have. It is the only module with a private call of Ray.

Ray 2.60 has no public call for this. Its own libraries use this one: Ray Train checks --num-workers with it.
It answers only where the service that starts nodes has told Ray its node types. The autoscalers of `ray up`
and of KubeRay do not tell them. tests/pipeline/runtime/test_cluster_limits.py fails when Ray moves the call.
"""

from __future__ import annotations

from ray._private.state import state as _state


def most_resources() -> dict[str, float] | None:
    """Return the most CPUs and GPUs that this cluster can have, by name. None: Ray does not know."""
    known = _state.get_max_resources_from_cluster_config()
    if not known:
        return None
    return {name: float(known.get(name, 0)) for name in ("CPU", "GPU")}
