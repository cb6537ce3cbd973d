"""Graph-based segmentation (Felzenszwalb and Huttenlocher 2004): joins components of a picture into regions.

Indices are unsigned, because numba checks signed indices for wrap-around, and these checks prevent SIMD
instructions.

Legend: C flat components, see `edges`; R regions; E edges between components; B edges between regions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from fastrcnn.proposals.edges import find_root

SHARES = 1024
"""k / size of components below this size is read from a table. Most joined components are small."""


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
    remaining = np.empty(len(edges), np.uint64)
    remaining_amount = np.empty(len(edges), np.uint32)
    count = 0
    shift = np.uint64(32)
    for bucket in range(len(start) - 1):
        weight = amount[bucket]
        for e in range(start[bucket], start[bucket + 1]):
            edge = edges[e]
            a = find_root(parent, np.uint32(edge >> shift))
            b = find_root(parent, np.uint32(edge))
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
                remaining[count] = edge
                remaining_amount[count] = weight
                count += 1
    inside = np.zeros(len(size), np.uint32)
    for c in range(np.uint64(len(size))):
        if parent[c] == c:
            inside[c] = state[c, 1] - k // state[c, 0]
    roots, count = _join_small(
        parent, state[:, 0], remaining[:count], remaining_amount, min_size, cap
    )
    region, region_inside = number_regions(parent, inside, roots)
    return region, remaining[:count], remaining_amount[:count], region_inside


@njit(nogil=True)
def _join_small(
    parent: Any, size: Any, remaining: Any, remaining_amount: Any, min_size: int, cap: int
) -> Any:
    """Join regions smaller than `min_size`, in place, until at most `cap` regions are left.

    Edges that are still between two regions are moved to the front of `remaining` and `remaining_amount`.

    Returns:
        roots: the number of regions.
        kept: the number of edges between two regions.
    """
    shift = np.uint64(32)
    count = len(remaining)
    while True:
        kept = 0
        for e in range(count):
            edge = remaining[e]
            a = find_root(parent, np.uint32(edge >> shift))
            b = find_root(parent, np.uint32(edge))
            if a == b:
                continue
            if size[a] < min_size or size[b] < min_size:
                if size[a] < size[b]:
                    a, b = b, a
                parent[b] = a
                size[a] += size[b]
            else:
                remaining[kept] = edge
                remaining_amount[kept] = remaining_amount[e]
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
        if find_root(parent, np.uint32(remaining[e] >> shift)) != find_root(
            parent, np.uint32(remaining[e])
        ):
            remaining[kept] = remaining[e]
            remaining_amount[kept] = remaining_amount[e]
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
        root = find_root(parent, np.uint32(c))
        if number[root] == unseen:
            number[root] = count
            region_inside[count] = inside[root]
            count = np.uint32(count + 1)
        region[c] = number[root]
    return region, region_inside
