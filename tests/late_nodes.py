"""Starts the nodes of `tests.autoscaling`. Ray's autoscaler imports it, so it imports no other test."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from typing import Any
from unittest.mock import patch

from ray._private import parameter
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class LateNodes(FakeMultiNodeProvider):  # type: ignore[misc]
    """Ray's provider of nodes on this machine, with two changes.

    Nodes with GPUs take `gpus_after_s` of its configuration. Each node has its folder in `folder`: a node
    that starts deletes the working_dir of the jobs in its folder, which others would still use.
    """

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> None:
        """Start nodes of one type."""
        if resources.get("GPU"):
            time.sleep(self.provider_config["gpus_after_s"])
        for _ in range(count):
            folder = tempfile.mkdtemp(prefix="n", dir=self.provider_config["folder"])
            with self.lock:
                made = partial(parameter.RayParams, temp_dir=folder)
                with patch.object(parameter, "RayParams", made):
                    super().create_node_with_resources_and_labels(
                        node_config, tags, 1, resources, labels
                    )
