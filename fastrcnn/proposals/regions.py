"""Regions of a segmentation: their boxes, histograms and neighbours, and how they form coarser regions.

Legend: H, W the picture; C components; R regions; B edges between regions; E pairs of neighbours; D histogram
bins, colour first; T texture planes; G groups of regions. A pair of indices is packed into one uint64, 32
bits each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from fastrcnn.proposals.edges import find_root
from fastrcnn.proposals.segmentation import number_regions

EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
"""Marks a free slot of a hash set."""


@njit(nogil=True)
def describe_regions(
    component: Any,
    region: Any,
    regions: int,
    colors: Any,
    color_bins: int,
    textures: Any,
    step: int,
    bins: int,
) -> Any:
    """Compute box, size and histogram of each region in one pass over the pixels.

    Args:
        component: (H, W) uint32, the component of each pixel.
        region: (C,) uint32, the region of each component.
        regions: R.
        colors: (3, H, W) uint8, the bin of each pixel in each channel, below `color_bins`.
        color_bins: number of colour bins.
        textures: (T, H / step, W / step) uint8, texture bins below `bins` - `color_bins`.
        step: textures have every `step`-th row and column of the picture.
        bins: D.

    Returns:
        boxes: (R, 4) int32 xyxy, the end exclusive.
        size: (R,) uint32 pixels.
        histogram: (R, D) uint32 counts.
    """
    height, width = component.shape
    boxes = np.empty((regions, 4), np.int32)
    boxes[:, 0] = width
    boxes[:, 1] = height
    boxes[:, 2:] = 0
    size = np.zeros(regions, np.uint32)
    histogram = np.zeros((regions, bins), np.uint32)
    for y in range(height):
        for x in range(width):
            r = region[component[y, x]]
            size[r] += np.uint32(1)
            boxes[r, 0] = min(boxes[r, 0], x)
            boxes[r, 1] = min(boxes[r, 1], y)
            boxes[r, 2] = max(boxes[r, 2], x + 1)
            boxes[r, 3] = y + 1
            for channel in range(3):
                histogram[r, colors[channel, y, x]] += np.uint32(1)
    for y in range(textures.shape[1]):
        for x in range(textures.shape[2]):
            r = region[component[y * step, x * step]]
            for t in range(len(textures)):
                histogram[r, color_bins + textures[t, y, x]] += np.uint32(1)
    return boxes, size, histogram


@njit(nogil=True)
def _is_new(table: Any, key: Any) -> bool:
    """Add a key to a hash set. Return False if the set already holds it.

    The set uses open addressing. The length of its table is a power of two, and the table is never full.
    """
    mask = np.uint64(len(table) - 1)
    slot = ((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask
    while table[slot] != EMPTY:
        if table[slot] == key:
            return False
        slot = (slot + np.uint64(1)) & mask
    table[slot] = key
    return True


@njit(nogil=True)
def hash_set(items: int) -> Any:
    """Create an empty hash set for at most `items` keys."""
    size = 16
    while size < 2 * items:
        size *= 2
    return np.full(size, EMPTY, np.uint64)


@njit(nogil=True)
def neighbours(pairs: Any, weights: Any, region: Any, regions: int) -> Any:
    """List the pairs of regions that touch, each pair once, sorted by the weakest edge between them.

    Args:
        pairs: (B,) uint64 pairs of components (or of finer regions), sorted by weight, smallest first.
        weights: (B,) uint32, the amounts of these edges.
        region: uint32, the region of each component (or finer region).
        regions: R.

    Returns:
        pairs: (E,) uint64, the smaller region in the upper half.
        weights: (E,) uint32, rising: the weakest edge of each pair.
    """
    # The graph of regions of a picture is planar: it has at most 3 R - 6 pairs, or 4 R with diagonals.
    table = hash_set(min(len(pairs), 4 * regions))
    region_pairs = np.empty(len(pairs), np.uint64)
    region_weights = np.empty(len(pairs), np.uint32)
    shift = np.uint64(32)
    count = 0
    for e in range(len(pairs)):
        a = region[np.uint32(pairs[e] >> shift)]
        b = region[np.uint32(pairs[e])]
        if a == b:
            continue
        key = np.uint64(min(a, b)) << shift | np.uint64(max(a, b))
        if _is_new(table, key):
            region_pairs[count] = key
            region_weights[count] = weights[e]
            count += 1
    return region_pairs[:count].copy(), region_weights[:count].copy()


@njit(nogil=True)
def neighbours_of_pixels(component: Any, region: Any, regions: int) -> Any:
    """List the pairs of regions that touch by OpenCV's rule: to the left, above, or above to the left.

    Args:
        component: (H, W) uint32, the component of each pixel.
        region: (C,) uint32, the region of each component.
        regions: R.

    Returns:
        pairs: (E,) uint64, the smaller region in the upper half, in raster order.
    """
    height, width = component.shape
    table = hash_set(4 * regions + 4)
    pairs = np.empty(len(table) // 2, np.uint64)
    shift = np.uint64(32)
    count = 0
    lines = np.empty((2, width), np.uint32)
    for y in range(height):
        line, above = lines[y % 2], lines[(y + 1) % 2]
        for x in range(width):
            line[x] = region[component[y, x]]
        for x in range(1, width if y else 0):  # OpenCV leaves out the first row and column
            a = line[x]
            for b in (line[x - 1], above[x], above[x - 1]):
                if a != b:
                    key = np.uint64(min(a, b)) << shift | np.uint64(max(a, b))
                    if _is_new(table, key):
                        pairs[count] = key
                        count += 1
    return pairs[:count]


@njit(nogil=True)
def coarsen(pairs: Any, weights: Any, size: Any, inside: Any, k: int) -> Any:
    """Continue the segmentation with a larger k, on the graph of the regions.

    Args:
        pairs, weights: the result of `neighbours`.
        size: (R,) uint32 pixels.
        inside: (R,) uint32, the strongest edge inside each region.
        k: scale of the segmentation, in units of the weights.

    Returns:
        group: (R,) uint32, the group of each region.
        inside: (G,) uint32, the strongest edge inside each group.
    """
    parent = np.arange(len(size)).astype(np.uint32)
    size = size.copy()
    inside = inside.copy()
    roots = len(size)
    shift = np.uint64(32)
    for e in range(len(pairs)):
        a = find_root(parent, np.uint32(pairs[e] >> shift))
        b = find_root(parent, np.uint32(pairs[e]))
        if a == b:
            continue
        weight = weights[e]
        if weight <= inside[a] + k // size[a] and weight <= inside[b] + k // size[b]:
            if size[a] < size[b]:
                a, b = b, a
            parent[b] = a
            size[a] += size[b]
            inside[a] = weight
            roots -= 1
    return number_regions(parent, inside, roots)


@njit(nogil=True)
def pool_groups(group: Any, groups: int, boxes: Any, size: Any, histogram: Any) -> Any:
    """Compute boxes, sizes and histograms of groups from those of their regions.

    Args:
        group: (R,) uint32, the group of each region.
        groups: G.
        boxes, size, histogram: the result of `describe_regions` for the regions.

    Returns:
        The same three arrays for the groups.
    """
    group_boxes = np.empty((groups, 4), np.int32)
    group_boxes[:, :2] = 0x7FFFFFFF
    group_boxes[:, 2:] = 0
    group_size = np.zeros(groups, np.uint32)
    group_histogram = np.zeros((groups, histogram.shape[1]), np.uint32)
    for r in range(len(group)):
        g = group[r]
        group_size[g] += size[r]
        for side in range(2):
            group_boxes[g, side] = min(group_boxes[g, side], boxes[r, side])
            group_boxes[g, side + 2] = max(group_boxes[g, side + 2], boxes[r, side + 2])
        for i in range(np.uint64(histogram.shape[1])):
            group_histogram[g, i] += histogram[r, i]
    return group_boxes, group_size, group_histogram
