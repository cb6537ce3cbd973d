"""A Detector whose GPU breaks in the middle of a job: its process ends, and another one scores its images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fastrcnn.detection import ScoredImage
from pipeline import storage
from pipeline.config import ScoreConfig
from pipeline.record import plan
from pipeline.runtime import cluster
from pipeline.runtime.attempts import SharedAttempts
from pipeline.score import chain, make_tasks
from pipeline.scoring.detector import DetectorActor
from pipeline.scoring.preflight import prepare, read_settings
from pipeline.scoring.resources import Resources
from tests.soak.images import drawn_images

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*")


class BreaksOnce(DetectorActor):
    """The first process that scores breaks, and then each of its calls fails.

    Args:
        calls: file of the process ids of all calls of the network.
    """

    def __init__(self, checkpoint: str, *, calls: str, **settings: Any) -> None:
        super().__init__(checkpoint, **settings)
        self._calls = Path(calls)
        self._network = self._detector.network._detect
        self._detector.network._detect = self._break_once  # type: ignore[method-assign]

    def _break_once(self, pixels: Sequence[Any], proposals: Any) -> list[ScoredImage]:
        with open(self._calls, "a") as file:
            file.write(f"{os.getpid()}\n")
        if self._calls.read_text().split()[0] == str(os.getpid()):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return self._network(pixels, proposals)


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_the_images_of_a_broken_gpu_go_to_another_process(
    bucket: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    for name, data in drawn_images(8).items():
        storage.write_bytes(f"{bucket}/in/{name}", data)
    job = prepare(
        ScoreConfig(images=f"{bucket}/in", checkpoint=str(tiny_checkpoint), output=f"{bucket}/out")
    )
    planned = plan.extend(job.config.output, job.selection.listed, shard_size=8)
    resources = Resources(
        cpus=2.0, gpus=0.0, workers=1, detector_cpus=1.0, detector_gpus=0.0, read_cpus=0.9
    )
    cluster.configure_ray_data()
    calls = tmp_path / "calls"
    results = chain(
        make_tasks(planned, [0], 4, resources),
        read_settings=read_settings(job),
        detector=BreaksOnce,
        detector_settings={"checkpoint": str(tiny_checkpoint), "calls": str(calls)},
        attempts=SharedAttempts(),
        resources=resources,
        batch_size=4,
    )
    rows = pa.concat_tables(results.iter_batches(batch_size=None, batch_format="pyarrow"))
    assert rows["status"].to_pylist() == ["ok"] * 8
    broken, *others = calls.read_text().split()
    assert broken not in others  # it ended with its first call
    assert others
