"""Ray's documented object detection, rewritten to compare it with the scoring job in `jobs/benchmark.py
score`.

The original is "Object Detection Batch Inference with PyTorch" in Ray Data's examples (docs.ray.io,
data/examples/ batch_inference_object_detection): `read_images`, a `map` that makes a float tensor of each
image, a `map_batches` on actors with torchvision's Faster R-CNN, and `write_parquet`.

All differences make the example faster, so that only pipelines and detectors are compared. Backbone, scale,
number of proposals, batch size, actors and their CPUs are those of the scoring job. No gradients are kept. In
the original, pixels are sent to the actors twice and written into the results; here they are not. The
detector of the example always uses an RPN; compared with grid or selective search, the RPN gives the same
number of proposals.
"""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy, DataContext
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.transforms.functional import to_tensor

from fastrcnn.backbones.backbone import Backbone
from fastrcnn.config import RPNConfig
from fastrcnn.model import FastRCNN
from pipeline.ablation.torchvision_heads import TorchvisionHeads
from pipeline.scoring.resources import Resources
from pipeline.storage.checkpoints import load

RESULT = pa.schema(
    [
        pa.field("path", pa.string()),
        pa.field("labels", pa.list_(pa.int64())),
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("boxes", pa.list_(pa.list_(pa.float32()))),
        pa.field("scored_at", pa.timestamp("us", tz="UTC")),
    ]
)
"""The schema is fixed, because Ray would infer another type from a first block without boxes."""


def detect_all(
    images: str,
    checkpoint: str,
    output: str,
    *,
    max_proposals: int,
    score_threshold: float,
    batch_size: int,
    resources: Resources,
) -> None:
    """Run the example: detect in a folder of images and write Parquet (`RESULT`), on the connected cluster.

    Args:
        images, output: folders, or S3 prefixes.
        checkpoint: a checkpoint of this project. Its backbone and heads are used.
        max_proposals: proposals per image, if the checkpoint has no RPN.
        score_threshold: minimum score of a written box.
        batch_size: images per call.
        resources: the resources of the scoring job, used here too.
    """
    # The scoring job has changed the block size. The example uses Ray's default.
    context = DataContext()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with DataContext.current(context):
        dataset = ray.data.read_images(
            images,
            mode="RGB",
            include_paths=True,
            num_cpus=resources.read_cpus,
        )
        detected = dataset.map(transformed, num_cpus=resources.read_cpus).map_batches(
            ObjectDetector,
            fn_constructor_kwargs={
                "checkpoint": checkpoint,
                "max_proposals": max_proposals,
                "score_threshold": score_threshold,
                "gpu": resources.detector_gpus > 0,
                "num_threads": max(1, int(resources.detector_cpus)),
            },
            batch_size=batch_size,
            compute=ActorPoolStrategy(size=resources.workers),
            num_cpus=resources.detector_cpus,
            num_gpus=resources.detector_gpus,
        )
        # The actors use nearly all CPUs until the end. A task that requests a CPU would wait for ever.
        detected.write_parquet(output, ray_remote_args={"num_cpus": 0})


def transformed(row: dict[str, Any]) -> dict[str, Any]:
    """Turn a row of `read_images` into torchvision's input: an image (3, H, W) float32 from 0 to 1."""
    pixels = np.array(row["image"])  # copied, because torch warns about Ray's read-only arrays
    return {"path": row["path"], "transformed": to_tensor(pixels).numpy()}


class ObjectDetector:
    """The actor of the example: turns a batch of `transformed` rows into a table (`RESULT`).

    Args:
        checkpoint, max_proposals, score_threshold: as for `faster_rcnn`.
        gpu: True to use a GPU.
        num_threads: threads of torch on the CPU.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        max_proposals: int,
        score_threshold: float,
        gpu: bool,
        num_threads: int,
    ) -> None:
        torch.set_num_threads(num_threads)
        self._device = torch.device("cuda" if gpu else "cpu")
        self._model = faster_rcnn(load(checkpoint).model, max_proposals, score_threshold)
        self._model.to(self._device).eval()

    @torch.inference_mode()
    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> pa.Table:
        # (N, 3, H, W) if all images have the same size, else N objects (3, H, W); copied as above.
        images = [torch.tensor(np.asarray(image, np.float32)) for image in batch["transformed"]]
        results = self._model([image.to(self._device) for image in images])
        columns: dict[str, list[Any]] = {
            name: [result[name].cpu().tolist() for result in results]
            for name in ("labels", "scores", "boxes")
        }
        columns["path"] = batch["path"].tolist()
        columns["scored_at"] = [datetime.datetime.now(datetime.UTC)] * len(results)
        return pa.Table.from_pydict(columns, schema=RESULT)


def faster_rcnn(model: FastRCNN, max_proposals: int, score_threshold: float) -> GeneralizedRCNN:
    """Make torchvision's Faster R-CNN on the backbone of a model, with the weights of its heads.

    Args:
        model: a model of this project; its config is changed.
        max_proposals: proposals per image, if the model has no RPN.
        score_threshold: minimum score of a box.
    """
    rpn = model.config.rpn or RPNConfig(max_proposals_test=max_proposals)
    model.config = replace(model.config, rpn=rpn, score_threshold=score_threshold)
    parts = TorchvisionHeads(model)
    return GeneralizedRCNN(
        _Maps(model.backbone), cast(nn.Module, parts.rpn), parts.heads, parts.transform
    )


class _Maps(nn.Module):
    """A backbone that gives feature maps by name, like torchvision's backbones."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {str(index): level for index, level in enumerate(self.backbone(images))}
