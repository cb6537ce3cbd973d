"""The edges between neighbouring pixels of a picture: their weights, and their order by weight.

Weights are integers, in fractions of a grey level. So edges are sorted by counting, and the order is the same
on every machine. Indices are unsigned, because numba checks signed indices for wrap-around, and these checks
prevent SIMD instructions.

Legend: H, W the picture; C flat components (pixels joined by edges of almost zero weight); E edges between
components.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

WEIGHTS = 65536
"""Number of different weights."""


@njit(nogil=True)
def edge_weights(planes: Any, unit: float, base: int) -> Any:
    """Compute the colour distance of each pixel to its right neighbour and to the neighbour below.

    Args:
        planes: (3, H, W) uint8 or float32.
        unit: float32. A weight is the Euclidean distance times `unit`, rounded down. If `unit` is 0, a weight
            is the upper bits of the distance as float32 minus `base`: 2048 steps from each power of two to
            the next.
        base: see `unit`. Smaller bits count as `base`, so their weight is 0.

    Returns:
        right, down: (H, W) uint16. Edges that lead out of the picture are 0.
    """
    _, height, width = planes.shape
    right = np.zeros((height, width), np.uint16)
    down = np.zeros((height, width), np.uint16)
    line = np.empty(width, np.float32)
    for y in range(height):
        if width > 1:
            _distances(planes[:, y, :-1], planes[:, y, 1:], line[1:])
            _weights(line[1:], unit, base, right[y])
        if y + 1 < height:
            _distances(planes[:, y], planes[:, y + 1], line)
            _weights(line, unit, base, down[y])
    return right, down


@njit(nogil=True)
def _distances(first: Any, second: Any, out: Any) -> None:
    """Write the Euclidean distances of two rows of colours (3, X) to out (X,) float32."""
    a0, a1, a2 = first[0], first[1], first[2]
    b0, b1, b2 = second[0], second[1], second[2]
    for x in range(np.uint64(len(a0))):
        # For uint8, float32 holds the squares and their sum exactly. The root rounds the same everywhere.
        d0 = np.float32(a0[x]) - np.float32(b0[x])
        d1 = np.float32(a1[x]) - np.float32(b1[x])
        d2 = np.float32(a2[x]) - np.float32(b2[x])
        out[x] = np.sqrt(d0 * d0 + d1 * d1 + d2 * d2)


@njit(nogil=True)
def _weights(distance: Any, unit: float, base: int, out: Any) -> None:
    """Write the weights of distances (X,) float32 to out (X,) uint16, see `edge_weights`."""
    if unit > 0:
        for x in range(np.uint64(len(distance))):
            out[x] = np.uint16(distance[x] * unit)
    else:
        bits = distance.view(np.uint32)
        for x in range(np.uint64(len(distance))):
            out[x] = np.uint16(max(np.int64(bits[x] >> np.uint32(12)), np.int64(base)) - base)


@njit(nogil=True)
def find_root(parent: Any, node: Any) -> Any:
    """Return the root of a node, and halve the path to it."""
    while True:
        above = parent[node]
        if above == node:
            return node
        node = parent[above]
        parent[above] = parent[node]


@njit(nogil=True)
def flat_components(right: Any, down: Any, limit: int) -> Any:
    """Join pixels over edges of at most `limit`, in raster order: without sorting and without cache misses.

    Args:
        right, down: (H, W) uint16, the result of `edge_weights`.

    Returns:
        component: (H, W) uint32, numbered in raster order.
        size: (C,) uint32 pixels.
    """
    height, width = right.shape
    component = np.empty((height, width), np.uint32)
    parent = np.empty(height * width, np.uint32)
    count = np.uint32(0)
    for y in range(height):
        for x in range(width):
            from_left = x > 0 and right[y, x - 1] <= limit
            from_above = y > 0 and down[y - 1, x] <= limit
            if from_left:
                label = component[y, x - 1]
                if from_above:
                    other = component[y - 1, x]
                    if label != other:
                        a, b = find_root(parent, label), find_root(parent, other)
                        label = min(a, b)
                        parent[max(a, b)] = label
            elif from_above:
                label = component[y - 1, x]
            else:
                label = count
                parent[count] = count
                count = np.uint32(count + 1)
            component[y, x] = label
    number = np.empty(count, np.uint32)  # a root has a lower label than its members
    components = np.uint32(0)
    for node in range(count):
        root = find_root(parent, np.uint32(node))
        if root == node:
            number[node] = components
            components = np.uint32(components + 1)
        else:
            number[node] = number[root]
    size = np.zeros(components, np.uint32)
    for y in range(height):
        for x in range(width):
            label = number[component[y, x]]
            component[y, x] = label
            size[label] += np.uint32(1)
    return component, size


@njit(nogil=True)
def sorted_edges(right: Any, down: Any, component: Any) -> Any:
    """Sort the edges between different components by weight, smallest first. This is a counting sort.

    Args:
        right, down: (H, W) uint16, the result of `edge_weights`.
        component: (H, W) uint32.

    Returns:
        edges: (E,) uint64, the two components in the upper and the lower half.
        start: (largest weight + 2,) int64. The edges of weight w are edges[start[w]:start[w + 1]].
    """
    height, width = right.shape
    pairs = np.empty(2 * height * width, np.uint64)
    weights = np.empty(2 * height * width, np.uint16)
    start = np.zeros(WEIGHTS + 1, np.int64)
    shift = np.uint64(32)
    count = 0
    for y in range(height):
        for x in range(width):
            label = component[y, x]
            packed = np.uint64(label) << shift
            if x + 1 < width and component[y, x + 1] != label:
                pairs[count] = packed | np.uint64(component[y, x + 1])
                weights[count] = right[y, x]
                start[right[y, x] + 1] += 1
                count += 1
            if y + 1 < height and component[y + 1, x] != label:
                pairs[count] = packed | np.uint64(component[y + 1, x])
                weights[count] = down[y, x]
                start[down[y, x] + 1] += 1
                count += 1
    return _scatter(pairs[:count], weights[:count], start)


@njit(nogil=True)
def _scatter(pairs: Any, weights: Any, start: Any) -> Any:
    """Move each pair to its place in the sorted order. `start` holds the count of each weight w at w + 1."""
    buckets = 1
    for weight in range(1, len(start)):
        if start[weight]:
            buckets = weight + 1
        start[weight] += start[weight - 1]
    place = start[:buckets].copy()
    edges = np.empty(len(pairs), np.uint64)
    for e in range(np.uint64(len(pairs))):
        weight = weights[e]
        edges[np.uint64(place[weight])] = pairs[e]
        place[weight] += 1
    return edges, start[:buckets]
