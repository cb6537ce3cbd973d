"""A program: the scoring chain on a cluster of a head, a CPU node and a GPU node, all of them logical.

python -m tests.pipeline.placed_chain IMAGES OUTPUT     prints which stage ran on which node, as JSON
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pyarrow as pa
import ray
from ray.cluster_utils import Cluster

from fastrcnn.config import ProposalConfig
from pipeline.config import ScoreConfig
from pipeline.record import plan
from pipeline.runtime import cluster
from pipeline.runtime.attempts import AttemptLog
from pipeline.schema import RESULT
from pipeline.score import chain, make_tasks
from pipeline.scoring.candidates import ReadSettings
from pipeline.scoring.resources import size_cluster
from pipeline.scoring.selection import select


class Places(AttemptLog):
    """Notes which node a stage began something on."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: set[tuple[str, str]] = set()

    def note(self, stage: str, node: str) -> None:
        self.noted.add((stage, node))

    def all(self) -> list[tuple[str, str]]:
        return sorted(self.noted)


class Noted:
    """`Attempts` that are noted with their node."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def begin(self, key: str) -> int:
        node = ray.get_runtime_context().get_node_id()
        ray.get(self._actor.note.remote(key.split()[0], node))
        return int(ray.get(self._actor.begin.remote(key)))

    def end(self, key: str) -> None:
        self._actor.end.remote(key)


class StandIn:
    """A Detector that needs no GPU to say that it was given one."""

    def __init__(self, attempts: Noted) -> None:
        self._attempts = attempts

    def __call__(self, candidates: pa.Table) -> pa.Table:
        self._attempts.begin(f"detect {ray.get_runtime_context().get_accelerator_ids()['GPU']}")
        rows = [{n: row.get(n) for n in RESULT.names} for row in candidates.to_pylist()]
        return pa.Table.from_pylist(rows, schema=RESULT)


def kind(resources: dict[str, float]) -> str:
    return "gpu" if "GPU" in resources else "cpu" if "CPU" in resources else "head"


def main(images: str, output: str) -> None:
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0})
    nodes.add_node(num_cpus=2, num_gpus=0)
    nodes.add_node(num_cpus=1, num_gpus=1)
    ray.init(address=nodes.address, log_to_driver=False)
    kinds = {node["NodeID"]: kind(node["Resources"]) for node in ray.nodes()}
    config = ScoreConfig(images=images, checkpoint="none", output=output)
    resources = size_cluster(config, cluster.nodes())
    planned = plan.extend(output, select(images).listed, shard_size=8)
    actor = ray.remote(num_cpus=0)(Places).remote()
    cluster.configure_ray_data()
    rows = chain(
        make_tasks(planned, range(planned.num_shards), 4, resources),
        read_settings=ReadSettings(proposals=ProposalConfig(name="grid", max_boxes=10)),
        detector=StandIn,
        detector_settings={},
        attempts=Noted(actor),
        resources=resources,
        batch_size=4,
    )
    count = sum(
        block.num_rows for block in rows.iter_batches(batch_size=None, batch_format="pyarrow")
    )
    places = [(stage, kinds[node]) for stage, node in ray.get(actor.all.remote())]
    sys.stdout.write(json.dumps({"rows": count, "places": places}) + "\n")
    ray.shutdown()
    nodes.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
