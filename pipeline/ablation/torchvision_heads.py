"""torchvision's RoIHeads fed with our proposals, or behind its own RPN: the peer of our own heads.

Same backbone, same proposals, same initial weights, same batches and solver as a `FastRCNN`; its own
sampling, pooling, loss and output rules. With an RPN it is its Faster R-CNN, with its standard anchors.
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
"""references/detection/train.py for two images a step: rate .02 / 8, drops after 16 and 22 of 26 epochs."""
RPN_SIDES = (32, 64, 128, 256, 512)
"""All of them on every map, as its MobileNet pyramid has them; of four maps one each (faster_rcnn.py)."""


class TorchvisionHeads(nn.Module):
    """Shares `model`'s backbone and starts from its head's weights.

    Raises:
        ValueError: the model has what RoIHeads lacks: max pooling, a pyramid, other target deviations.
    """

    def __init__(self, model: FastRCNN) -> None:
        super().__init__()
        config = model.config
        if config.pooling != "align" or config.pyramid or config.class_agnostic or config.dropout:
            raise ValueError(
                "RoIHeads know RoIAlign, one scale, a box a class and no dropout: take the modern preset"
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
        """As torchvision's GeneralizedRCNN, its transform included, but the proposals are given, RPN or not.

        Args:
            images: N of (3, H, W) float32 in 0..1, on the device of the parameters, as all that follows.
            proposals: N of (P, 4) float32 xyxy, image frame.
            targets: N of boxes (G, 4) float32, image frame, and labels (G,) int64; None in eval mode.

        Returns:
            Of each image boxes (D, 4), labels and scores (D,), in the image frame but not clipped to it, and
            losses by name. In training no image has an entry, in eval mode there is no loss.
        """
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        resized, targets = self.transform(images, targets)
        pairs = zip(proposals, sizes, resized.image_sizes, strict=True)
        scaled = [resize_boxes(boxes, size, new) for boxes, size, new in pairs]
        results, losses = self._run(resized, scaled, targets)
        return self.transform.postprocess(results, resized.image_sizes, sizes), losses

    def train_step(
        self,
        optimizer: torch.optim.SGD,
        batch: Batch,
        step: int,
        settings: StepSettings,
    ) -> dict[str, float]:
        """Take one step as `pipeline.training.step` does, in one process. The row has the loss alone."""
        solver = settings.solver
        self.train()
        rate = learning_rate(solver, step, settings.num_iterations)
        set_learning_rate(optimizer, rate, caffe_momentum=solver.caffe_momentum)
        torch.manual_seed(
            step_seed(settings.seed, step, 0)
        )  # RoIHeads sample from the global generator
        images = batch_images(batch.images, self.config.scale, self.config.max_size)
        factors = images.factors
        targets = [
            {"boxes": t.gt_boxes * f, "labels": t.gt_labels}
            for t, f in zip(batch.targets, factors, strict=True)
        ]
        proposals = [t.proposals * f for t, f in zip(batch.targets, factors, strict=True)]
        given = proposals if self.rpn is None else None
        _, losses = self._run(_listed(images), given, targets)
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if solver.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters(), solver.max_grad_norm)
        optimizer.step()
        return {"loss": loss.item()}

    @torch.inference_mode()
    def detect(self, images: Sequence[Any], proposals: Sequence[Any]) -> list[Detections]:
        """As `fastrcnn.detection.detect`, image by image."""
        self.eval()
        found = []
        for pixels, boxes in zip(images, proposals, strict=True):
            image = torch.as_tensor(pixels)
            batch = batch_images([image], self.config.scale, self.config.max_size)
            # A copy: of read-only arrays torch warns.
            scaled = torch.tensor(boxes) * batch.factors[0]
            given = [scaled] if self.rpn is None else None
            (result,), _ = self._run(_listed(batch), given, None)
            own = clip(result["boxes"] / batch.factors[0], (image.shape[0], image.shape[1]))
            found.append(Detections(own, result["labels"], result["scores"]))
        return found

    @torch.inference_mode()
    def propose(self, image: Any) -> Tensor:
        """Its RPN's boxes (P, 4) of an image, in its frame, best first."""
        assert self.rpn is not None
        self.eval()
        batch = batch_images([torch.as_tensor(image)], self.config.scale, self.config.max_size)
        (boxes,), _ = self.rpn(_listed(batch), self._features(batch.images))
        own: Tensor = boxes / batch.factors[0]
        return own

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        return {str(index): level for index, level in enumerate(self.backbone(images))}

    def _run(
        self,
        listed: ImageList,
        proposals: list[Tensor] | None,
        targets: Sequence[dict[str, Tensor]] | None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Boxes and losses of padded images; all in the model frame. Proposals None: the RPN's own."""
        images = listed.tensors
        features = self._features(images)
        own: dict[str, Tensor] = {}
        if proposals is None:
            assert self.rpn is not None
            proposals, own = self.rpn(listed, features, targets)
        # The padded size: from it RoIHeads work out each level's stride.
        shapes = [(int(images.shape[2]), int(images.shape[3]))] * len(images)
        results, losses = self.heads(features, proposals, shapes, targets)
        return results, losses | own


def _listed(batch: ImageBatch) -> ImageList:
    return ImageList(batch.images, list(batch.scaled))


def _rpn(model: FastRCNN) -> nn.Module:
    """torchvision's, with its own numbers but for the proposals that are kept."""
    levels, config = len(model.backbone.strides), model.config.rpn
    assert config is not None
    spread = levels == len(RPN_SIDES) - 1
    sides = tuple((side,) for side in RPN_SIDES[:levels]) if spread else (RPN_SIDES,) * levels
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
