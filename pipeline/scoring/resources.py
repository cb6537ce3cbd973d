"""Divides the CPUs and GPUs of a cluster between the two stages of a scoring job."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config import ScoreConfig
from pipeline.errors import UserError
from pipeline.runtime.placement import (
    Amounts,
    check_gpus_each,
    largest,
    num_fitting,
    num_placeable,
    total,
)

logger = logging.getLogger(__name__)

_MOST_DECODING_CPUS = 8
"""CPUs of a Detector on a GPU that decodes its images. They decode 5,000 images of 640 x 480 a second."""
_READING_SHARE = 8
"""One CPU in 8 of a node reads if the Detectors decode: a read waits for the store and checks a header."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """The CPUs and GPUs of the cluster, and how the two stages share them."""

    cpus: float
    """CPUs of the cluster."""
    gpus: float
    """GPUs of the cluster."""
    workers: int
    """The largest number of Detector actors."""
    detector_cpus: float
    """CPUs of each Detector."""
    detector_gpus: float
    """GPUs of each Detector."""
    read_cpus: float
    """CPUs of each task of the CPU stage."""

    @property
    def detector_threads(self) -> int:
        """CPU threads of torch in a Detector. On a GPU, torch needs one, and the other CPUs decode."""
        return 1 if self.detector_gpus else max(1, int(self.detector_cpus))

    @property
    def decode_threads(self) -> int:
        """Images that a Detector decodes at the same time, while it detects. On a CPU, torch's threads
        already use its CPUs."""
        return max(1, int(self.detector_cpus)) if self.detector_gpus else 1

    @property
    def worker(self) -> Amounts:
        """What one Detector needs."""
        return {"CPU": self.detector_cpus, "GPU": self.detector_gpus}


def size_cluster(
    config: ScoreConfig, nodes: Sequence[Amounts], *, detectors_decode: bool = False
) -> Resources:
    """Divide the cluster so that both stages can always run: Detectors never take the last CPU.

    Args:
        config: gives --num-workers, --max-workers and --gpus-per-worker.
        nodes: the resources of each node.
        detectors_decode: the CPU stage does not decode, so the Detectors on GPUs get most CPUs.

    Raises:
        UserError: the cluster has no CPU, or no node has the GPUs of --gpus-per-worker.
    """
    cpus, gpus = total(nodes, "CPU"), total(nodes, "GPU")
    if cpus <= 0:
        raise UserError("the Ray cluster", "has no CPU", "Start a worker node first.")
    wanted = config.gpus_per_worker
    if wanted is None:
        wanted = min(1.0, largest(nodes, "GPU"))
    if wanted > gpus:
        raise UserError(
            f"--gpus-per-worker {wanted:g}",
            f"the cluster has {gpus:g} GPUs",
            "Start a node with GPUs first, or give 0.",
        )
    asked = config.most_workers
    if wanted > 0:
        check_gpus_each(nodes, wanted)
        workers, detector_cpus, left = _share_gpus(asked, wanted, nodes, detectors_decode)
    else:
        workers, detector_cpus, left = _share_cpus(asked, [n["CPU"] for n in nodes if n.get("CPU")])
    if config.num_workers is not None and workers < config.num_workers:
        logger.warning(
            "--num-workers %d: %d are used, because %s",
            config.num_workers,
            workers,
            f"--max-workers is {config.max_workers}"
            if workers == config.max_workers
            else f"the cluster has room for {workers}",
        )
    read_cpus = 0.9 * min(1.0, left)
    # The two must differ: if both are equal, Ray Data fuses the stages, and nothing reads during detection.
    same = read_cpus == detector_cpus
    return Resources(
        cpus=cpus,
        gpus=gpus,
        workers=workers,
        detector_cpus=detector_cpus,
        detector_gpus=wanted,
        # Below one CPU, because a read waits for the network part of the time.
        read_cpus=0.9 * read_cpus if same else read_cpus,
    )


def _share_gpus(
    wanted: int | None, gpus: float, nodes: Sequence[Amounts], detectors_decode: bool
) -> tuple[int, float, float]:
    """Divide the GPUs among Detectors. A Detector on a GPU uses its CPUs only to decode and upload.

    On each node, the other CPUs read and propose, wherever Ray places the Detectors. If the CPU stage only
    reads, one CPU in `_READING_SHARE` is enough for it.

    Returns:
        The number of Detectors, the CPUs of each, and the CPUs that are left for one read.
    """
    room = num_placeable(nodes, {"GPU": gpus})
    workers = min(wanted or room, room)
    held = [(n.get("CPU", 0.0), min(workers, num_fitting(n, {"GPU": gpus}))) for n in nodes]
    reading = [
        max(min(1.0, cpus / 2), detectors_decode * cpus / _READING_SHARE) for cpus, _ in held
    ]
    shares = [
        (cpus - reads) / count for (cpus, count), reads in zip(held, reading, strict=True) if count
    ]
    detector_cpus = _round_down(min(_MOST_DECODING_CPUS if detectors_decode else 0.5, *shares))
    return workers, detector_cpus, max(cpus - count * detector_cpus for cpus, count in held)


def _share_cpus(wanted: int | None, nodes: Sequence[float]) -> tuple[int, float, float]:
    """Divide the CPUs among Detectors and reading. Reading and proposing are a tenth to a fifth of the work.

    If no node has four CPUs, each node is divided by itself, so that a read has room beside the Detectors of
    its node. Two nodes with one CPU each, divided like one node with two, scored half as many images per
    second.

    Args:
        wanted: the largest number of Detectors, or None.
        nodes: CPUs of each node that has any.

    Returns:
        The number of Detectors, the CPUs of each, and the CPUs that are left for reading.
    """
    cpus, most = sum(nodes), max(nodes)
    # What is divided: each small node, or the whole cluster as one node.
    size, count = (most, int(cpus / most)) if most < 4 else (cpus, 1)
    reading = max(size / 4, min(0.5, size / 2))
    room = int(size) if 1 <= size < 4 else max(1, int(size - reading))
    workers = min(wanted or room * count, room * count)
    per_node = -(-workers // count)
    detector_cpus = _round_down(min(1.0, (size - reading) / per_node))
    fitting = num_placeable([{"CPU": node} for node in nodes], {"CPU": detector_cpus})
    return min(workers, fitting), detector_cpus, size - per_node * detector_cpus


def _round_down(cpus: float) -> float:
    return int(100 * cpus) / 100
