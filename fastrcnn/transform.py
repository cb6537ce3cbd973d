"""From the image frame to the model frame: resize, normalise and pad images into one batch.

The image frame is the decoded, upright image. The model frame is the resized image that the backbone sees.
Both have continuous pixel edges, so a box is transformed by one factor per axis. Sizes are (height, width).

Legend: N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of RGB values in [0, 1], for torchvision's ImageNet weights. (The reference
code subtracts Caffe's BGR means.)"""

PAD_MULTIPLE = 32
"""Padded sizes are multiples of this number, the largest stride of a backbone. Feature pyramids need sizes
that can be halved at each level."""

PADDING_WASTE = 1.25
"""Images share a batch if the padded area is at most this many times the area of each image."""


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


def scaled_size(size: tuple[int, int], scale: int, max_size: int) -> tuple[int, int]:
    """Compute (height, width) of an image in the model frame. Both are at least 1."""
    factor = scale_factor(size, scale, max_size)
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def batch_images(
    images: Sequence[Tensor],
    scale: int | Sequence[int],
    max_size: int,
    device: torch.device | str = "cpu",
) -> ImageBatch:
    """Resize (bilinear), normalise and pad images into one batch.

    Args:
        images: N tensors (H, W, 3) uint8 RGB, of any sizes.
        scale: see `scale_factor`. One number for all images, or N numbers.
        max_size: see `scale_factor`.
        device: the pixels are copied there before any arithmetic, because uint8 is a quarter of the bytes of
            float32.
    """
    resized, factors = [], []
    sizes = tuple((int(image.shape[0]), int(image.shape[1])) for image in images)
    scales = [scale] * len(images) if isinstance(scale, int) else scale
    for image, (height, width), image_scale in zip(images, sizes, scales, strict=True):
        new_height, new_width = scaled_size((height, width), image_scale, max_size)
        pixels = image.to(device, non_blocking=True).permute(2, 0, 1)[None].float()
        if (new_height, new_width) != (height, width):
            pixels = F.interpolate(
                pixels, size=(new_height, new_width), mode="bilinear", align_corners=False
            )
        resized.append(pixels[0])
        factors.append([new_width / width, new_height / height] * 2)
    padded_height = _round_up(max(r.shape[1] for r in resized))
    padded_width = _round_up(max(r.shape[2] for r in resized))
    mean = torch.tensor(IMAGE_MEAN, device=device)[:, None, None] * 255
    std = torch.tensor(IMAGE_STD, device=device)[:, None, None] * 255
    batch = torch.zeros(len(resized), 3, padded_height, padded_width, device=device)
    for slot, pixels in zip(batch, resized, strict=True):
        slot[:, : pixels.shape[1], : pixels.shape[2]] = (pixels - mean) / std
    scaled = tuple((int(r.shape[1]), int(r.shape[2])) for r in resized)
    return ImageBatch(batch, torch.tensor(factors, device=device), sizes, scaled)


def to_rois(boxes: Sequence[Tensor], factors: Tensor) -> Tensor:
    """Turn boxes into RoIs of the model frame.

    Args:
        boxes: N tensors (R_i, 4), image frame.
        factors: (N, 4), see `ImageBatch`.

    Returns:
        (sum of R_i, 5): batch index, x1, y1, x2, y2.
    """
    rows = [
        torch.cat([factors.new_full((len(box), 1), index), box.to(factors) * factors[index]], dim=1)
        for index, box in enumerate(boxes)
    ]
    return torch.cat(rows) if rows else factors.new_zeros(0, 5)


def _round_up(length: int) -> int:
    """Round up to a multiple of `PAD_MULTIPLE`."""
    return -(-length // PAD_MULTIPLE) * PAD_MULTIPLE


def group_by_shape(sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Split images into batches of similar shape, so that padding stays within `PADDING_WASTE`.

    Args:
        sizes: N sizes in the model frame.

    Returns:
        A list of indices for each batch. Every index occurs once.
    """
    groups: list[list[int]] = []
    extents: list[tuple[int, int]] = []
    for index in sorted(range(len(sizes)), key=lambda i: (sizes[i][0] / sizes[i][1], sizes[i])):
        height, width = sizes[index]
        if groups:
            padded = max(extents[-1][0], height), max(extents[-1][1], width)
            smallest = min(sizes[i][0] * sizes[i][1] for i in [*groups[-1], index])
            if padded[0] * padded[1] <= PADDING_WASTE * smallest:
                groups[-1].append(index)
                extents[-1] = padded
                continue
        groups.append([index])
        extents.append((height, width))
    return groups
