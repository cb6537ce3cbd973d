"""Ray's documented object detection, for `jobs/benchmark.py score` to stand beside: its shape, our words.

"Object Detection Batch Inference with PyTorch" of Ray Data's examples (docs.ray.io, data/examples/
batch_inference_object_detection): `read_images`, a `map` that makes a float tensor of each image, a
`map_batches` over a pool of actors that hold torchvision's Faster R-CNN, `write_parquet`.

What differs from it is in its favour, so that no more than the pipelines and the detectors are compared.
Backbone, scale, number of proposals, batch size, actors and their CPUs are those of our chain. No gradients
are kept. Pixels neither go to the actors a second time nor into the results, as the example lets them. Its
detector makes its proposals itself, so beside a grid or selective search it has an RPN that gives as many.
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
from pipeline.scoring.preflight import Resources
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
"""Fixed: where a first block has no boxes Ray would guess another type than in the next."""


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
    """The example's pipeline: a folder of images -> Parquet (RESULT), on the cluster that is joined.

    Args:
        images, output: folders, or prefixes of S3.
        checkpoint: of ours; its backbone and heads are used.
        max_proposals: of an image, where the checkpoint has no RPN that says it.
        score_threshold: lowest score written.
        batch_size: images a call.
        resources: of the chain that it stands beside.
    """
    # The chain has set blocks of its own size: the example has Ray's.
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
        found = dataset.map(transformed, num_cpus=resources.read_cpus).map_batches(
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
        # The actors hold nearly all CPUs until the end: a task that asked for one would wait for ever.
        found.write_parquet(output, ray_remote_args={"num_cpus": 0})


def transformed(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `read_images` with its image as (3, H, W) float32 from 0 to 1, as torchvision takes it."""
    pixels = np.array(row["image"])  # a copy: Ray's are read-only, which torch warns of
    return {"path": row["path"], "transformed": to_tensor(pixels).numpy()}


class ObjectDetector:
    """What the example's actors hold: a batch of `transformed` rows to a table (RESULT).

    Args:
        checkpoint, max_proposals, score_threshold: as for `faster_rcnn`.
        gpu: whether to use one.
        num_threads: of torch on the CPU.
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
        # (N, 3, H, W) where all are of one size, else N objects (3, H, W); copies, as above.
        images = [torch.tensor(np.asarray(image, np.float32)) for image in batch["transformed"]]
        found = self._model([image.to(self._device) for image in images])
        columns: dict[str, list[Any]] = {
            name: [result[name].cpu().tolist() for result in found]
            for name in ("labels", "scores", "boxes")
        }
        columns["path"] = batch["path"].tolist()
        columns["scored_at"] = [datetime.datetime.now(datetime.UTC)] * len(found)
        return pa.Table.from_pydict(columns, schema=RESULT)


def faster_rcnn(model: FastRCNN, max_proposals: int, score_threshold: float) -> GeneralizedRCNN:
    """torchvision's Faster R-CNN on the backbone of a model, with its heads' weights.

    Args:
        model: of ours; its config is changed.
        max_proposals: of an image, where it has no RPN of its own that says it.
        score_threshold: lowest score of a box.
    """
    rpn = model.config.rpn or RPNConfig(max_proposals_test=max_proposals)
    model.config = replace(model.config, rpn=rpn, score_threshold=score_threshold)
    parts = TorchvisionHeads(model)
    return GeneralizedRCNN(
        _Maps(model.backbone), cast(nn.Module, parts.rpn), parts.heads, parts.transform
    )


class _Maps(nn.Module):
    """A backbone whose maps have names, as torchvision's have."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {str(index): level for index, level in enumerate(self.backbone(images))}
