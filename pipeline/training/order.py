"""Which image is at each position of a run. Images of rare classes can come more often.

With n images, an epoch is n positions. Without repeat factors, each image comes once an epoch, in an order
drawn from (seed, epoch). With them, image i comes n r_i / sum(r) times an epoch on average, rounded up or
down. Epochs keep their length, so a position of the run says its image, and a resumed run needs no state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pipeline.training.examples import Example

Indices = npt.NDArray[np.int64]


class ImageOrder:
    """The order of the images of a run: a pure function of its arguments.

    Args:
        num_images: n, at least one.
        seed: seed of the run.
        factors: repeat factors (n,), as `repeat_factors` gives them. None: all are equal.
    """

    def __init__(
        self, num_images: int, seed: int, factors: npt.NDArray[np.float64] | None = None
    ) -> None:
        self.num_images, self.seed, self.factors = num_images, seed, factors
        self._epoch = lru_cache(maxsize=4)(self._make_epoch)

    def at(self, position: int) -> int:
        """Give the index of the image at a position of the run."""
        epoch, place = divmod(position, self.num_images)
        return int(self._epoch(epoch)[place])

    def _make_epoch(self, epoch: int) -> Indices:
        """Give the indices (n,) of the images of an epoch."""
        generator = np.random.default_rng([self.seed, epoch])
        permutation = generator.permutation(self.num_images)
        if self.factors is None:
            return permutation
        return resample(self.factors, generator.random())[permutation]


def image_order(examples: Sequence[Example], threshold: float, seed: int) -> ImageOrder:
    """Make the order of a training with `SolverConfig.repeat_threshold`. 0: each image once an epoch."""
    factors = None
    if threshold:
        # Crowds are not trained on, so they do not make an image one of their class.
        classes = [set(e.image.gt_labels[~e.image.crowd].tolist()) for e in examples]
        factors = repeat_factors(classes, threshold)
    return ImageOrder(len(examples), seed, factors)


def repeat_factors(classes: Sequence[set[int]], threshold: float) -> npt.NDArray[np.float64]:
    """Give the repeat factor of each image (Gupta et al. 2019, section 5: LVIS).

    A class in a share f of the images has the factor max(1, sqrt(threshold / f)). An image has the largest
    factor of its classes, and one without objects has 1.

    Args:
        classes: the classes in each image.
        threshold: classes in a smaller share of the images are repeated.

    Example:
        [{1}, {1}, {1}, {1, 2}] and .5 give [1, 1, 1, sqrt(2)].
    """
    counts = Counter(label for image in classes for label in image)
    factor = {
        label: max(1.0, float(np.sqrt(threshold * len(classes) / count)))
        for label, count in counts.items()
    }
    return np.array([max((factor[c] for c in image), default=1.0) for image in classes])


def resample(factors: npt.NDArray[np.float64], offset: float) -> Indices:
    """Choose n of n images by systematic resampling: at n equally spaced points of the sum of the factors.

    Args:
        factors: (n,), above 0.
        offset: the place of the first point, from 0 to below 1 of the distance between two points. If it is
            uniform, the expected number of times that image i is chosen is n r_i / sum(r). Each image is
            chosen that often, rounded up or down.

    Returns:
        Indices (n,) that rise.
    """
    ends = np.cumsum(factors)
    points = (np.arange(len(factors)) + offset) * (ends[-1] / len(factors))
    indices: Indices = np.minimum(np.searchsorted(ends, points, side="right"), len(factors) - 1)
    return indices
