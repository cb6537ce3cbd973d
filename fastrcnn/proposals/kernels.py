"""The compiled entries of selective search. Call `compiled.kernels` to import this module.

Importing it compiles the entries or loads them from the cache.

Legend: H, W the picture; T texture planes; S strategies; N nodes of all trees; P different boxes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from fastrcnn.proposals.compiled import entry
from fastrcnn.proposals.edges import edge_weights, flat_components, sorted_edges
from fastrcnn.proposals.grouping import group
from fastrcnn.proposals.regions import (
    coarsen,
    describe_regions,
    neighbours,
    neighbours_of_pixels,
    pool_groups,
)
from fastrcnn.proposals.segmentation import segment


@njit(nogil=True)
def _hash64(value: Any) -> Any:
    """Hash 64 bits to 64 bits, with the last steps of splitmix64."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(nogil=True)
def _append(boxes: Any, regions: int, packed: Any, ranks: Any, count: int) -> int:
    """Append the boxes of a tree, packed into 4 x 16 bits, and their ranks. Return the new count.

    The root has rank 1. The node that was joined before it has rank 2, and so on. The first regions exist
    from the start, so they all share the mean of their ranks.

    Args:
        boxes: (M, 4) int32, boxes of a tree in the order of their creation.
        regions: number of first regions.
        packed, ranks: outputs, filled from `count` on.
    """
    nodes = len(boxes)
    for node in range(nodes):
        value = np.uint64(0)
        for side in range(4):
            value = value << np.uint64(16) | np.uint64(boxes[node, side])
        packed[count + node] = value
        ranks[count + node] = nodes - node if node >= regions else nodes - regions // 2
    return count + nodes


_HIERARCHIES = (
    "Tuple((uint64[::1], uint32[::1]))(uint16[:,::1], uint16[:,::1], uint32[::1],"
    " uint8[:,:,::1], uint8[:,:,::1], int64, int64, int64, int64, int64[::1], boolean,"
    " int64, int64, uint8[:,::1])"
)


@entry(_HIERARCHIES)
def hierarchies(
    right: Any,
    down: Any,
    amount: Any,
    colors: Any,
    textures: Any,
    step: int,
    color_bins: int,
    bins: int,
    limit: int,
    ks: Any,
    nested: bool,
    min_size: int,
    cap: int,
    strategies: Any,
) -> Any:
    """Compute all nodes of all trees of one colour space. There is one tree for each k and each strategy.

    Args:
        right, down: (H, W) uint16 weights of the edges to the right and down, from `weights`.
        amount: uint32, the amount that each weight stands for.
        colors, textures, step, color_bins, bins: see `describe_regions`.
        limit: pixels are joined first over edges of at most this weight.
        ks: int64, scales of the segmentation, rising, in units of `amount`.
        nested: each further k continues from the regions of the k before. False: it begins with the pixels.
        min_size: smallest region, pixels.
        cap: largest number of regions of one segmentation.
        strategies: (S, 4) uint8, see `group`.

    Returns:
        boxes: (N,) uint64, x1, y1, x2, y2 with 16 bits each.
        ranks: (N,) uint32. The root of each tree has rank 1.
    """
    height, width = right.shape
    pixels = height * width
    component, component_size = flat_components(right, down, limit)
    edges, start = sorted_edges(right, down, component)
    packed = np.empty(2 * cap * len(ks) * len(strategies), np.uint64)
    ranks = np.empty(len(packed), np.uint32)
    count = 0
    for level in range(len(ks)):
        if level == 0 or not nested:
            region, border, border_weight, inside = segment(
                edges, start, amount, component_size, amount[limit], ks[level], min_size, cap
            )
            boxes, size, histogram = describe_regions(
                component, region, len(inside), colors, color_bins, textures, step, bins
            )
            if nested:
                pairs, weights = neighbours(border, border_weight, region, len(inside))
            else:
                pairs = neighbours_of_pixels(component, region, len(inside))
                weights = np.empty(0, np.uint32)
        else:
            groups, inside = coarsen(pairs, weights, size, inside, ks[level])
            if len(inside) == len(size):
                continue
            boxes, size, histogram = pool_groups(groups, len(inside), boxes, size, histogram)
            pairs, weights = neighbours(pairs, weights, groups, len(inside))
        for s in range(len(strategies)):
            tree = group(boxes, size, histogram, pairs, strategies[s], color_bins, pixels)
            count = _append(tree, len(size), packed, ranks, count)
    return packed[:count].copy(), ranks[:count].copy()


@entry("Tuple((uint64[::1], uint64[::1]))(uint64[::1], uint32[::1], uint64, int64, int64)")
def priorities(packed: Any, ranks: Any, seed: Any, min_width: int, min_height: int) -> Any:
    """Remove duplicate boxes, and compute a key for each box: its rank times a random number.

    A box that occurs several times gets the smallest of its keys.

    Args:
        packed, ranks: the result of `hierarchies`.
        seed: uint64.
        min_width, min_height: smaller boxes are left out.

    Returns:
        boxes: (P,) uint64.
        keys: (P,) uint64, all different. The smallest key is the best.
    """
    size = 16
    while size < 2 * len(packed):
        size *= 2
    empty_slot = np.uint64(0)  # an empty slot: no box has x2 = 0
    table = np.zeros(size, np.uint64)
    best = np.empty(size, np.uint64)
    mask = np.uint64(size - 1)
    low = np.uint64(0xFFFF)
    for i in range(np.uint64(len(packed))):
        box = packed[i]
        width = np.int64(box >> np.uint64(16) & low) - np.int64(box >> np.uint64(48))
        height = np.int64(box & low) - np.int64(box >> np.uint64(32) & low)
        if width < min_width or height < min_height:
            continue
        draw = _hash64(seed + i * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)  # 24 bits
        key = (np.uint64(ranks[i]) * (draw + np.uint64(1))) << np.uint64(22) | i
        slot = ((box * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask
        while table[slot] != box and table[slot] != empty_slot:
            slot = (slot + np.uint64(1)) & mask
        if table[slot] == empty_slot:
            table[slot] = box
            best[slot] = key
        else:
            best[slot] = min(best[slot], key)
    count = 0
    for i in range(np.uint64(size)):
        if table[i] != empty_slot:
            table[count], best[count] = table[i], best[i]
            count += 1
    return table[:count].copy(), best[:count].copy()


@entry(
    "UniTuple(uint16[:,::1], 2)(uint8[:,:,::1], float32, int64)",
    "UniTuple(uint16[:,::1], 2)(float32[:,:,::1], float32, int64)",
)
def weights(planes: Any, unit: float, base: int) -> Any:
    """Compute the weights of all edges between pixels, see `edges.edge_weights`."""
    return edge_weights(planes, unit, base)


@entry("uint8[:,:,::1](uint8[:,::1], uint8[::1])")
def gradient_bins(grey: Any, magnitude_bin: Any) -> Any:
    """Compute the texture of each pixel from the octant and the size of its gradient.

    Args:
        grey: (H, W) uint8.
        magnitude_bin: (256,) uint8, the bin of each gradient size. 0: too weak to have a direction.

    Returns:
        (1, H, W) uint8: 0, or 1 + octant + 8 (magnitude bin - 1).
    """
    height, width = grey.shape
    out = np.zeros((1, height, width), np.uint8)
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            gx = np.int64(grey[y, x + 1]) - np.int64(grey[y, x - 1])
            gy = np.int64(grey[y + 1, x]) - np.int64(grey[y - 1, x])
            size = magnitude_bin[max(abs(gx), abs(gy))]
            if size:
                octant = (gx < 0) + 2 * (gy < 0) + 4 * (abs(gx) < abs(gy))
                out[0, y, x] = 1 + octant + 8 * (size - 1)
    return out
