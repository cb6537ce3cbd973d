"""The numbers of SGD: rates, schedule, decay and momentum; those of the reference code and those of today.

F = rbgirshick/fast-rcnn (solver.prototxt, train.prototxt), C = its Caffe, D2 = detectron2's 1x schedule.
"""

from __future__ import annotations

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


@dataclass(frozen=True, kw_only=True, slots=True)
class SolverConfig:
    """How the model is trained. The bare defaults are `paper`."""

    learning_rate: Rate = 0.001
    """Learning rate of weights, for a step of `batch_size` images (F). That of biases is `bias_rate` times as
    large."""
    batch_size: Width = 2
    """Images a step, over all workers (paper, section 2.3: N)."""
    iterations: Count | None = 40_000
    """SGD steps (F). null: `epochs` says how long."""
    epochs: Epochs | None = None
    """Passes over the training images, where `iterations` is null."""
    schedule: Schedule = "step"
    """How the learning rate falls: `step` at `drops` (F), `cosine` smoothly to 0."""
    drops: tuple[Share, ...] = (0.75,)
    """`step`: shares of the run after which the learning rate is multiplied by `gamma` (F: 30k of 40k)."""
    gamma: PositiveShare = 0.1
    """`step`: factor of each drop of the learning rate (F)."""
    momentum: BelowOne = 0.9
    """Share of the last step's velocity that is kept (F)."""
    caffe_momentum: bool = True
    """V <- mu V + lr g (C solver.cpp): a drop of the learning rate takes effect over about ten steps.
    False: at once, as in torch."""
    weight_decay: NotNegative = 0.0005
    """L2 penalty of weights (F)."""
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
    """Compile the backbone with torch.compile, on GPUs alone; not measured there. On a CPU it would cost
    time: a step on two images of 240 px took .26 s of a core instead of .17, after four minutes of compiling
    (mobilenet_v2)."""
    deterministic: bool = False
    """Use only algorithms that add in a fixed order: two runs on the same kind of GPU are equal bit for bit,
    and slower (`fastrcnn.pooling` has such a path). On CPUs runs are equal in any case."""
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

    @classmethod
    def paper(cls, **changes: Any) -> SolverConfig:
        """Give F's numbers for VOC 2007."""
        return cls(**changes)

    @classmethod
    def modern(cls, **changes: Any) -> SolverConfig:
        """Give D2's 1x schedule: .02 at 16 images, 12 epochs; with a cosine, which needs no `drops`."""
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
        return cls(**(numbers | changes))

    def num_iterations(self, num_images: int) -> int:
        """Number of steps of the whole run, at least one."""
        if self.iterations is not None:
            return self.iterations
        assert self.epochs is not None
        return max(1, round(self.epochs * num_images / self.batch_size))
