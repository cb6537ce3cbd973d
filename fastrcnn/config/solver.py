"""The numbers of the training (optimizer, rates, schedule): those of the reference code, and modern ones.

F = rbgirshick/fast-rcnn (solver.prototxt, train.prototxt), C = its Caffe, D2 = detectron2's 1x schedule.
AdamW is that of Loshchilov and Hutter 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from fastrcnn.config.ranges import (
    BelowOne,
    Count,
    CountOrZero,
    Epochs,
    FieldError,
    NotNegative,
    Positive,
    PositiveShare,
    Rate,
    Share,
    Width,
    check_fields,
)

Schedule = Literal["step", "cosine"]
Trained = Literal["all", "bbox_pred"]
Optimizer = Literal["sgd", "adamw"]
BestBy = Literal["voc07", "map50_95"]
SGD_MOMENTUM, ADAMW_BETAS = 0.9, (0.9, 0.999)
"""Momentum of SGD (F), and decay rates of AdamW's two averages (torch's defaults)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SolverConfig:
    """How the model is trained. The defaults are the preset `paper`."""

    optimizer: Optimizer = "sgd"
    """`sgd` with momentum (F), or `adamw`. The preset's learning rate, weight decay and `bias_rate` depend on
    it."""
    learning_rate: Rate = 0.001
    """Learning rate of weights, for a step of `batch_size` images (F). That of biases is `bias_rate` times as
    large."""
    batch_size: Width = 2
    """Images a step, over all workers (paper, section 2.3: N)."""
    iterations: Count | None = 40_000
    """SGD steps (F). null: `epochs` says how long."""
    epochs: Epochs | None = None
    """Passes over the training images, if `iterations` is null."""
    schedule: Schedule = "step"
    """How the learning rate falls: `step` at `drops` (F), `cosine` smoothly to 0."""
    drops: tuple[Share, ...] = (0.75,)
    """`step`: shares of the run after which the learning rate is multiplied by `gamma` (F: 30k of 40k)."""
    gamma: PositiveShare = 0.1
    """`step`: factor of each drop of the learning rate (F)."""
    momentum: BelowOne = SGD_MOMENTUM
    """`sgd`: share of the last step's velocity that is kept (F)."""
    caffe_momentum: bool = True
    """`sgd`: V <- mu V + lr g (C solver.cpp): a drop of the learning rate takes effect over about ten steps.
    False: at once, as in torch."""
    betas: tuple[BelowOne, BelowOne] = ADAMW_BETAS
    """`adamw`: shares of the average gradient and of its average square that a step keeps."""
    weight_decay: NotNegative = 0.0005
    """`sgd`: L2 penalty of weights (F). `adamw`: share of a weight that a step at learning rate 1 takes
    away."""
    bias_rate: NotNegative = 2.0
    """Factor of the learning rate, for biases (F lr_mult 2)."""
    bias_decay: NotNegative = 0.0
    """Factor of the weight decay, for biases (F decay_mult 0; the paper's text says 1)."""
    warmup: CountOrZero = 0
    """Steps over which the learning rate grows linearly from a thousandth of its value."""
    max_grad_norm: Positive | None = None
    """Largest norm of the gradient; longer gradients are scaled down, so that one unusual batch cannot ruin a
    run. null: no limit."""
    mixed_precision: bool = False
    """bfloat16 autocast, on devices with instructions for it (`fastrcnn.precision`). A step on two images of
    480 px with an RPN took .55 s instead of .93 (mobilenet_v2, one thread of AMD EPYC, Zen 5)."""
    images_per_pass: Count | None = None
    """Images of a worker's share that go through the network at once. The gradients of the passes are added:
    the step is the same and needs less memory. null: all of the share."""
    compile: bool = False
    """Compile the backbone with torch.compile, on GPUs only; its speed is not measured. On a CPU it would be
    slower: a step on two images of 240 px took .26 s of a core instead of .17, after four minutes of
    compilation (mobilenet_v2)."""
    deterministic: bool = False
    """Use only algorithms that add in a fixed order: two runs on the same kind of GPU are equal bit for bit,
    and slower (`fastrcnn.pooling` has such a path). On CPUs runs are equal in any case."""
    layer_decay: PositiveShare = 1.0
    """Each stage of the backbone learns at this share of the rate of the stage after it; the last one at this
    share of the head's rate. .7 to .9 suit pretrained transformers and ConvNeXt (Bao et al. 2022). 1: all
    learn at one rate."""
    ema_decay: BelowOne | None = None
    """Keep an exponential average of the weights: a step keeps this share of it, less in the first steps
    (`fastrcnn.averaging`). The averaged weights are validated and exported. null: no average."""
    repeat_threshold: Share = 0.0
    """A class that is in a smaller share of the images is trained on more often: its images have the weight
    sqrt(threshold / share) (LVIS, Gupta et al. 2019). The number of images an epoch stays. .1 to .3 has an
    effect on some hundred images, .001 is LVIS's. 0: each image comes once an epoch."""
    best_by: BestBy = "voc07"
    """The mean average precision that ranks a run's checkpoints: `voc07` at IoU .5 (paper), or `map50_95`,
    the mean over IoU .5, .55, ... .95, which also sees how well the boxes fit."""
    patience: Count | None = None
    """Stop after this number of validations in a row without a better mAP, by `best_by`. The schedule does
    not know of it: after an early stop, the learning rate was never at its end. null: take all steps."""
    trained: Trained = "all"
    """The layers that are trained. `bbox_pred`: all other layers keep their weights, as in the second stage
    of stage-wise training (paper, Table 6)."""

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.iterations is None) == (self.epochs is None):
            length = {"iterations": self.iterations, "epochs": self.epochs}
            raise FieldError(length, "a number for exactly one of them")
        if any(after <= before for before, after in zip(self.drops, self.drops[1:], strict=False)):
            raise FieldError({"drops": self.drops}, "shares that rise")
        self._check_optimizer()

    def _check_optimizer(self) -> None:
        """Refuse numbers that the optimizer would not use."""
        unused: dict[str, object]
        if self.optimizer == "sgd":
            unused = {} if self.betas == ADAMW_BETAS else {"betas": self.betas}
            expected = "optimizer=adamw with betas; SGD has momentum"
        else:
            unused = {"caffe_momentum": self.caffe_momentum} if self.caffe_momentum else {}
            if self.momentum != SGD_MOMENTUM:
                unused["momentum"] = self.momentum
            expected = "optimizer=sgd with momentum or caffe_momentum; AdamW has betas"
        if unused:
            raise FieldError({**unused, "optimizer": self.optimizer}, expected)

    @classmethod
    def paper(cls, **changes: Any) -> SolverConfig:
        """Give F's numbers for VOC 2007. With AdamW, they are those of `_adamw` and F's schedule."""
        numbers = _adamw(2) if changes.get("optimizer") == "adamw" else {}
        return cls(**(numbers | changes))

    @classmethod
    def modern(cls, **changes: Any) -> SolverConfig:
        """Give D2's 1x schedule: .02 at 16 images, 12 epochs; with a cosine, which needs no `drops`. With
        AdamW, rate and decay are those of `_adamw`."""
        numbers: dict[str, Any] = {
            "learning_rate": 0.02,
            "batch_size": 16,
            "iterations": None,
            "epochs": 12.0,
            "schedule": "cosine",
            "caffe_momentum": False,
            "weight_decay": 0.0001,
            "bias_rate": 1.0,
            "warmup": 500,
            "max_grad_norm": 10.0,
            "mixed_precision": True,
        }
        if changes.get("optimizer") == "adamw":
            numbers |= _adamw(numbers["batch_size"])
        return cls(**(numbers | changes))

    def rate_for(self, batch_size: int) -> float:
        """Scale the learning rate to another batch size.

        SGD: k times the images, k times the rate (Goyal et al. 2017). AdamW: the square root of k times the
        rate, since its step does not grow with the gradient (Malladi et al. 2022).
        """
        factor = batch_size / self.batch_size
        return self.learning_rate * (factor if self.optimizer == "sgd" else math.sqrt(factor))

    def num_iterations(self, num_images: int) -> int:
        """Give the number of steps of the whole run, at least one."""
        if self.iterations is not None:
            return self.iterations
        assert self.epochs is not None
        return max(1, round(self.epochs * num_images / self.batch_size))


def _adamw(batch_size: int) -> dict[str, Any]:
    """Give the numbers of AdamW in both presets: 2e-4 for two images, with a decay of .05 on weights.

    On two small sets it gave .05 to .17 more AP50 than SGD (docs/ablations.md, "The parts of a recipe").
    """
    return {
        "learning_rate": 2e-4 * math.sqrt(batch_size / 2),
        "weight_decay": 0.05,
        "bias_rate": 1.0,
        "bias_decay": 0.0,
        "caffe_momentum": False,
    }
