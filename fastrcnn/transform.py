"""From the image frame to the model frame: resize, normalise and pad images into one batch.

The image frame is the decoded, upright image. The model frame is the resized image that the backbone sees.
Both have continuous pixel edges, so a box is transformed by one factor per axis. Sizes are (height, width).

Legend: N images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastrcnn.upload import send

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of RGB values in [0, 1], for torchvision's ImageNet weights. (The reference
code subtracts Caffe's BGR means.)"""

PAD_MULTIPLE = 32
"""Padded sizes are multiples of this number, the largest stride of a backbone. Feature pyramids need sizes
that can be halved at each level."""

_ZOOMS = 1 << 16
"""Number of different zoom factors."""


class ImageBatch(NamedTuple):
    """N images in one padded tensor, and what is needed to transform their boxes."""

    images: Tensor
    """(N, 3, H, W) float32, normalised, padded with zeros at the right and at the bottom."""
    factors: Tensor
    """(N, 4) float32. A box of the image frame times its row gives the box of the model frame."""
    sizes: tuple[tuple[int, int], ...]
    """N sizes in the image frame."""
    scaled: tuple[tuple[int, int], ...]
    """N sizes in the model frame, without padding."""


def scale_factor(size: tuple[int, int], scale: int, max_size: int) -> float:
    """Compute the factor from the image frame to the model frame (fast-rcnn blob.py).

    The shorter side becomes `scale` pixels. If the longer side would then be above `max_size`, the longer
    side becomes `max_size` instead.

    Example:
        500 x 375 with scale 600 and max_size 1000 gives 1.6; 1000 x 300 gives 1.0.
    """
    factor = scale / min(size)
    if round(factor * max(size)) > max_size:
        factor = max_size / max(size)
    return factor


def scaled_size(
    size: tuple[int, int], scale: int, max_size: int, *, resize: str = "round"
) -> tuple[int, int]:
    """Compute (height, width) of an image in the model frame. Both are at least 1.

    Args:
        resize: `round` to the nearest whole pixel, or `floor` (torchvision transform.py).
    """
    if resize == "floor":
        factor = min(scale / min(size), max_size / max(size))
        return max(math.floor(size[0] * factor), 1), max(math.floor(size[1] * factor), 1)
    factor = scale_factor(size, scale, max_size)
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def random_zoom(limits: tuple[float, float], seed: int) -> float:
    """Draw a factor between two limits. Its logarithm is uniform.

    Args:
        limits: the smallest and the largest factor, above 0.
        seed: the seed of an image's sample, whose other bits decide on other things.
    """
    low, high = math.log(limits[0]), math.log(limits[1])
    return math.exp(low + (high - low) * ((seed >> 8) % _ZOOMS) / (_ZOOMS - 1))


def batch_images(
    images: Sequence[Tensor],
    scale: int | Sequence[int],
    max_size: int,
    device: torch.device | str = "cpu",
    *,
    resize: str = "round",
) -> ImageBatch:
    """Resize (bilinear), normalise and pad images into one batch.

    Args:
        images: N tensors (H, W, 3) uint8 RGB, of any sizes. One of float32 is resized already
            (`fastrcnn.regions`), and stays as it is.
        scale: see `scale_factor`. One number for all images, or N numbers.
        max_size: see `scale_factor`.
        device: the pixels are copied there before any arithmetic, because uint8 is a quarter of the bytes of
            float32.
        resize: see `scaled_size`.
    """
    resized, factors = [], []
    sizes = tuple((int(image.shape[0]), int(image.shape[1])) for image in images)
    scales = [scale] * len(images) if isinstance(scale, int) else scale
    for image, (height, width), image_scale in zip(images, sizes, scales, strict=True):
        new_height, new_width = height, width
        if not image.is_floating_point():
            new_height, new_width = scaled_size(
                (height, width), image_scale, max_size, resize=resize
            )
        pixels = send(image, device).permute(2, 0, 1)[None].float()
        if (new_height, new_width) != (height, width):
            pixels = F.interpolate(
                pixels, size=(new_height, new_width), mode="bilinear", align_corners=False
            )
        resized.append(pixels[0])
        factors.append([new_width / width, new_height / height] * 2)
    padded_height = padded_length(max(r.shape[1] for r in resized))
    padded_width = padded_length(max(r.shape[2] for r in resized))
    mean, std = _mean_and_std(torch.device(device))
    batch = torch.zeros(len(resized), 3, padded_height, padded_width, device=device)
    for slot, pixels in zip(batch, resized, strict=True):
        slot[:, : pixels.shape[1], : pixels.shape[2]] = (pixels - mean) / std
    scaled = tuple((int(r.shape[1]), int(r.shape[2])) for r in resized)
    return ImageBatch(batch, send(torch.tensor(factors), device), sizes, scaled)


@cache
def _mean_and_std(device: torch.device) -> tuple[Tensor, Tensor]:
    """Give mean and standard deviation of pixels from 0 to 255, each (3, 1, 1). A device gets them once."""
    with torch.inference_mode(False):  # training reads them too
        pair = torch.tensor([IMAGE_MEAN, IMAGE_STD])[:, :, None, None] * 255
        mean, std = send(pair, device)
        return mean, std


def to_rois(boxes: Sequence[Tensor], factors: Tensor) -> Tensor:
    """Turn boxes into RoIs of the model frame.

    Args:
        boxes: N tensors (R_i, 4), image frame.
        factors: (N, 4), see `ImageBatch`.

    Returns:
        (sum of R_i, 5): batch index, x1, y1, x2, y2.
    """
    if not boxes:
        return factors.new_zeros(0, 5)
    image = image_indices([len(box) for box in boxes], factors.device)  # (R,)
    rows = send(torch.cat([*boxes]), factors.device).to(factors.dtype) * factors[image]
    return torch.cat([image[:, None].to(factors.dtype), rows], dim=1)


def image_indices(counts: Sequence[int], device: torch.device | str) -> Tensor:
    """Give the index of the image of each row: `counts[0]` zeros, `counts[1]` ones, and so on, int64."""
    repeats = torch.tensor(counts, dtype=torch.int64)
    return send(torch.arange(len(counts)).repeat_interleave(repeats), device)


def padded_length(length: int) -> int:
    """Round up to a multiple of `PAD_MULTIPLE`."""
    return -(-length // PAD_MULTIPLE) * PAD_MULTIPLE


def canvas_size(
    size: tuple[int, int], scale: int, max_size: int, *, resize: str = "round"
) -> tuple[int, int]:
    """Compute the padded (height, width) of an image that is alone in its batch; see `scaled_size`."""
    height, width = scaled_size(size, scale, max_size, resize=resize)
    return padded_length(height), padded_length(width)
