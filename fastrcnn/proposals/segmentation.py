"""Graph-based segmentation (Felzenszwalb and Huttenlocher 2004) of one picture, compiled.

Weights of edges are integers, in fractions of a grey level. So edges are sorted by counting, and the order is
the same on every machine. Indices are unsigned, because numba checks signed indices for wrap-around, and
these checks prevent SIMD instructions.

Legend: H, W the picture; C flat components (pixels joined by edges of almost zero weight); R regions; E edges
between components; B edges between regions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

WEIGHTS = 65536
"""Number of different weights."""
SHARES = 1024
"""k / size of components below this size is read from a table. Most joined components are small."""


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
def find(parent: Any, node: Any) -> Any:
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
                        a, b = find(parent, label), find(parent, other)
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
        root = find(parent, np.uint32(node))
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


@njit(nogil=True)
def segment(
    edges: Any, start: Any, amount: Any, size: Any, limit: int, k: int, min_size: int, cap: int
) -> Any:
    """Join components into regions.

    Edges are read by rising weight. An edge joins its two sides if it is no stronger than the strongest edge
    inside each side plus k / size of that side. After that, regions smaller than `min_size` are joined over
    their weakest edge.

    Args:
        edges, start: the result of `sorted_edges`.
        amount: uint32, rising: the amount that each weight stands for, in units of `limit` and `k`.
        size: (C,) pixels of each component.
        limit: the strongest amount inside the components.
        k: the paper's k. A larger k gives larger regions.
        min_size: smallest region, pixels. It is doubled until at most `cap` regions are left.
        cap: largest R.

    Returns:
        region: (C,) uint32, numbered in the order of their first component.
        border: (B,) uint64, the pairs of components between regions, by rising weight.
        border_amount: (B,) uint32, their amounts.
        inside: (R,) uint32, the strongest edge over which each region was joined by the rule with k.
    """
    parent = np.arange(len(size)).astype(np.uint32)
    # The columns are size and inside + k / size. They lie side by side for the CPU's cache.
    state = np.empty((len(size), 2), np.uint32)
    share = k // np.maximum(np.arange(SHARES), 1)  # a division costs as much as the rest of a join
    for c in range(np.uint64(len(size))):
        state[c, 0] = size[c]
        state[c, 1] = limit + (share[size[c]] if size[c] < SHARES else k // size[c])
    left = np.empty(len(edges), np.uint64)
    left_amount = np.empty(len(edges), np.uint32)
    count = 0
    shift = np.uint64(32)
    for bucket in range(len(start) - 1):
        weight = amount[bucket]
        for e in range(start[bucket], start[bucket + 1]):
            edge = edges[e]
            a = find(parent, np.uint32(edge >> shift))
            b = find(parent, np.uint32(edge))
            if a == b:
                continue
            if weight <= state[a, 1] and weight <= state[b, 1]:
                if state[a, 0] < state[b, 0]:
                    a, b = b, a
                parent[b] = a
                state[a, 0] += state[b, 0]
                joined = state[a, 0]
                state[a, 1] = weight + (share[joined] if joined < SHARES else k // joined)
            else:
                left[count] = edge
                left_amount[count] = weight
                count += 1
    inside = np.zeros(len(size), np.uint32)
    for c in range(np.uint64(len(size))):
        if parent[c] == c:
            inside[c] = state[c, 1] - k // state[c, 0]
    roots, count = _join_small(parent, state[:, 0], left[:count], left_amount, min_size, cap)
    region, region_inside = number_regions(parent, inside, roots)
    return region, left[:count], left_amount[:count], region_inside


@njit(nogil=True)
def _join_small(
    parent: Any, size: Any, left: Any, left_amount: Any, min_size: int, cap: int
) -> Any:
    """Join regions smaller than `min_size`, in place, until at most `cap` regions are left.

    Edges that are still between two regions are moved to the front of `left` and `left_amount`.

    Returns:
        roots: the number of regions.
        kept: the number of edges between two regions.
    """
    shift = np.uint64(32)
    count = len(left)
    while True:
        kept = 0
        for e in range(count):
            edge = left[e]
            a = find(parent, np.uint32(edge >> shift))
            b = find(parent, np.uint32(edge))
            if a == b:
                continue
            if size[a] < min_size or size[b] < min_size:
                if size[a] < size[b]:
                    a, b = b, a
                parent[b] = a
                size[a] += size[b]
            else:
                left[kept] = edge
                left_amount[kept] = left_amount[e]
                kept += 1
        count = kept
        roots = 0
        for c in range(len(parent)):
            roots += parent[c] == c
        if roots <= cap:
            break
        min_size *= 2
    kept = 0
    for e in range(count):
        if find(parent, np.uint32(left[e] >> shift)) != find(parent, np.uint32(left[e])):
            left[kept] = left[e]
            left_amount[kept] = left_amount[e]
            kept += 1
    return roots, kept


@njit(nogil=True)
def number_regions(parent: Any, inside: Any, roots: int) -> Any:
    """Number the regions in the order of their first node.

    Returns:
        region: (C,) uint32, the region of each node.
        inside: (R,) uint32, `inside` of the root of each region.
    """
    unseen = np.uint32(0xFFFFFFFF)
    number = np.full(len(parent), unseen, np.uint32)
    region = np.empty(len(parent), np.uint32)
    region_inside = np.empty(roots, np.uint32)
    count = np.uint32(0)
    for c in range(len(parent)):
        root = find(parent, np.uint32(c))
        if number[root] == unseen:
            number[root] = count
            region_inside[count] = inside[root]
            count = np.uint32(count + 1)
        region[c] = number[root]
    return region, region_inside
