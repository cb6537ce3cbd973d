"""torchvision's RoIHeads, to compare with the head of `FastRCNN`.

Backbone, proposals, initial weights, batches and solver are those of a `FastRCNN`. Sampling, pooling, loss
and postprocessing are torchvision's. With an RPN, the network is torchvision's Faster R-CNN with its standard
anchors.

Letters in shapes: N images; H, W height and width; P proposals; G ground-truth boxes; D detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import MultiScaleRoIAlign

from fastrcnn.boxes import clip
from fastrcnn.detection import Detections
from fastrcnn.model import FastRCNN
from fastrcnn.solver import learning_rate, set_learning_rate
from fastrcnn.transform import IMAGE_MEAN, IMAGE_STD, ImageBatch, batch_images
from pipeline.training.examples import Batch, step_seed
from pipeline.training.step import StepSettings

RECIPE = (
    "learning_rate=0.0025",
    "schedule=step",
    "drops=0.6154,0.8462",
    "gamma=0.1",
    "momentum=0.9",
    "caffe_momentum=false",
    "weight_decay=0.0001",
    "bias_rate=1",
    "bias_decay=1",
    "warmup=1000",
    "max_grad_norm=null",
)
"""Numbers of torchvision's references/detection/train.py, for two images per step: learning rate .02 / 8,
drops after 16 and 22 of 26 epochs."""
RPN_SIDES = (32, 64, 128, 256, 512)
"""Sides of torchvision's anchors (faster_rcnn.py). With four feature maps, one side per map; otherwise all
sides on every map, as in torchvision's MobileNet pyramid."""


class TorchvisionHeads(nn.Module):
    """torchvision's RoIHeads on the backbone of `model`, with the initial weights of its head.

    Raises:
        ValueError: the model has a setting that RoIHeads lacks: max pooling, a pyramid, class-agnostic boxes
            or dropout.
    """

    def __init__(self, model: FastRCNN) -> None:
        super().__init__()
        config = model.config
        if config.pooling != "align" or config.pyramid or config.class_agnostic or config.dropout:
            raise ValueError(
                "torchvision's RoIHeads needs RoIAlign, one scale, one box per class and no dropout:"
                " give --preset modern"
            )
        self.config = config
        self.transform = GeneralizedRCNNTransform(
            config.scale, config.max_size, list(IMAGE_MEAN), list(IMAGE_STD)
        )
        self.backbone = model.backbone
        levels = [str(index) for index in range(len(model.backbone.strides))]
        channels = model.backbone.out_channels
        box_head = TwoMLPHead(channels * config.pool_size**2, config.fc_dim)
        predictor = FastRCNNPredictor(config.fc_dim, config.num_classes + 1)
        box_head.fc6.load_state_dict(model.head.fc6.state_dict())
        box_head.fc7.load_state_dict(model.head.fc7.state_dict())
        predictor.cls_score.load_state_dict(model.head.cls_score.state_dict())
        predictor.bbox_pred.load_state_dict(model.head.bbox_pred.state_dict())
        self.rpn = _rpn(model) if config.rpn else None
        std = config.delta_std or (0.1, 0.1, 0.2, 0.2)
        self.heads = RoIHeads(
            MultiScaleRoIAlign(levels, config.pool_size, sampling_ratio=2),
            box_head,
            predictor,
            fg_iou_thresh=config.fg_iou,
            bg_iou_thresh=config.fg_iou,
            batch_size_per_image=config.rois_per_image,
            positive_fraction=config.fg_fraction,
            bbox_reg_weights=tuple(1 / s for s in std),
            score_thresh=config.score_threshold,
            nms_thresh=config.nms_threshold,
            detections_per_img=config.detections_per_image or 100,
        )

    def forward(
        self,
        images: Sequence[Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Run torchvision's GeneralizedRCNN with its transform, on given proposals. The RPN is not used.

        All tensors are on the device of the parameters.

        Args:
            images: N tensors (3, H, W) float32 in 0..1.
            proposals: N tensors (P, 4) float32 xyxy, image frame.
            targets: N dicts: boxes (G, 4) float32, image frame, and labels (G,) int64. None in eval mode.

        Returns:
            Detections, and losses by name. Detections have one dict per image: boxes (D, 4) in the image
            frame, not clipped, labels (D,) and scores (D,). In training there are no detections, in eval mode
            no losses.
        """
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        resized, targets = self.transform(images, targets)
        pairs = zip(proposals, sizes, resized.image_sizes, strict=True)
        scaled = [resize_boxes(boxes, size, new) for boxes, size, new in pairs]
        results, losses = self._run(resized, scaled, targets)
        return self.transform.postprocess(results, resized.image_sizes, sizes), losses

    def train_step(
        self,
        optimizer: torch.optim.Optimizer,
        batch: Batch,
        step: int,
        settings: StepSettings,
    ) -> dict[str, float]:
        """Take one step like `pipeline.training.step.train_step`, in one process. The row holds only the
        loss."""
        solver = settings.solver
        self.train()
        rate = learning_rate(solver, step, settings.num_iterations)
        set_learning_rate(optimizer, rate, caffe_momentum=solver.caffe_momentum)
        # RoIHeads samples with the global generator.
        torch.manual_seed(step_seed(settings.seed, step, 0))
        images = batch_images(batch.images, self.config.scale, self.config.max_size)
        factors = images.factors
        targets = [
            {"boxes": t.gt_boxes * f, "labels": t.gt_labels}
            for t, f in zip(batch.targets, factors, strict=True)
        ]
        proposals = [t.proposals * f for t, f in zip(batch.targets, factors, strict=True)]
        given = proposals if self.rpn is None else None
        _, losses = self._run(_image_list(images), given, targets)
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if solver.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters(), solver.max_grad_norm)
        optimizer.step()
        return {"loss": loss.item()}

    @torch.inference_mode()
    def detect(self, images: Sequence[Any], proposals: Sequence[Any]) -> list[Detections]:
        """Detect like `fastrcnn.detection.detect`, one image at a time."""
        self.eval()
        detections = []
        for pixels, boxes in zip(images, proposals, strict=True):
            image = torch.as_tensor(pixels)
            batch = batch_images([image], self.config.scale, self.config.max_size)
            # Copy the boxes: torch warns about read-only arrays.
            scaled = torch.tensor(boxes) * batch.factors[0]
            given = [scaled] if self.rpn is None else None
            (result,), _ = self._run(_image_list(batch), given, None)
            image_boxes = clip(result["boxes"] / batch.factors[0], (image.shape[0], image.shape[1]))
            detections.append(Detections(image_boxes, result["labels"], result["scores"]))
        return detections

    @torch.inference_mode()
    def propose(self, image: Any) -> Tensor:
        """Give the RPN's proposals (P, 4) for one image (H, W, 3), in the image frame, best first."""
        assert self.rpn is not None
        self.eval()
        batch = batch_images([torch.as_tensor(image)], self.config.scale, self.config.max_size)
        (boxes,), _ = self.rpn(_image_list(batch), self._features(batch.images))
        proposals: Tensor = boxes / batch.factors[0]
        return proposals

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        """Give the feature maps under the names that MultiScaleRoIAlign expects."""
        return {str(index): level for index, level in enumerate(self.backbone(images))}

    def _run(
        self,
        image_list: ImageList,
        proposals: list[Tensor] | None,
        targets: Sequence[dict[str, Tensor]] | None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Run the network on padded images, in the model frame. With proposals None, the RPN makes them."""
        images = image_list.tensors
        features = self._features(images)
        rpn_losses: dict[str, Tensor] = {}
        if proposals is None:
            assert self.rpn is not None
            proposals, rpn_losses = self.rpn(image_list, features, targets)
        # RoIHeads computes the stride of each level from the padded size.
        shapes = [(int(images.shape[2]), int(images.shape[3]))] * len(images)
        results, losses = self.heads(features, proposals, shapes, targets)
        return results, losses | rpn_losses


def _image_list(batch: ImageBatch) -> ImageList:
    return ImageList(batch.images, list(batch.scaled))


def _rpn(model: FastRCNN) -> nn.Module:
    """Make torchvision's RPN with its numbers; only the number of proposals comes from the config."""
    levels, config = len(model.backbone.strides), model.config.rpn
    assert config is not None
    one_side_per_level = levels == len(RPN_SIDES) - 1
    sides = (
        tuple((side,) for side in RPN_SIDES[:levels])
        if one_side_per_level
        else (RPN_SIDES,) * levels
    )
    anchors = AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * levels)
    network: nn.Module = RegionProposalNetwork(
        anchors,
        RPNHead(model.backbone.out_channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 2000, "testing": 1000},
        post_nms_top_n={
            "training": config.max_proposals_train,
            "testing": config.max_proposals_test,
        },
        nms_thresh=0.7,
    )
    return network
