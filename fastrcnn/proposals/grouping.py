"""Hierarchical grouping (Uijlings et al. 2013, section 3.1).

The two most similar neighbours are joined, again and again, until one region is left. Each region that occurs
is a node of a tree, and its box is a proposal. Similarities are integers; `FULL` stands for 1. Of two pairs
with equal similarity, the younger one is joined first.

Legend: see `regions`. M = 2 R - 1 nodes of a tree; the R regions come first. A younger node has a higher
number. L is the length of the lists of pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

FULL = 65535
"""Stands for a similarity of 1, and for the sum of a normalised histogram. It is the largest uint16."""


@njit(nogil=True)
def normalise(counts: Any, first: int, end: int, out: Any) -> None:
    """Write the histogram counts[first:end], as shares of `FULL`, to out[first:end]."""
    total = np.uint64(0)
    for i in range(np.uint64(first), np.uint64(end)):
        total += np.uint64(counts[i])
    if total == np.uint64(0):
        out[first:end] = 0
        return
    scale = np.float32(FULL) / np.float32(total)  # one rounding per bin: the same on every machine
    for i in range(np.uint64(first), np.uint64(end)):
        out[i] = np.uint16(np.float32(counts[i]) * scale)


@njit(nogil=True)
def intersection(a: Any, b: Any, first: int, end: int) -> Any:
    """Compute the intersection of two normalised histograms: the sum of the smaller bins."""
    total = np.uint32(0)
    for i in range(np.uint64(first), np.uint64(end)):
        total += np.uint32(min(a[i], b[i]))
    return total


@njit(nogil=True)
def similarity(a: Any, b: Any, tree: Any, strategy: Any, color_bins: int, pixels: int) -> Any:
    """Compute 1 + the sum of the similarities of a strategy, each from 0 to `FULL`.

    Args:
        a, b: two nodes.
        tree: boxes, sizes and normalised histograms of the nodes.
        strategy: (4,) uint8, see `group`.
        pixels: number of pixels of the picture.
    """
    boxes, size, shares = tree
    total = np.int64(1)
    if strategy[0]:
        total += np.int64(intersection(shares[a], shares[b], 0, color_bins))
    if strategy[1]:
        total += np.int64(intersection(shares[a], shares[b], color_bins, shares.shape[1]))
    joint_size = np.int64(size[a]) + np.int64(size[b])
    if strategy[2]:
        total += FULL - joint_size * FULL // pixels
    if strategy[3]:
        width = max(boxes[a, 2], boxes[b, 2]) - min(boxes[a, 0], boxes[b, 0])
        height = max(boxes[a, 3], boxes[b, 3]) - min(boxes[a, 1], boxes[b, 1])
        total += FULL - (np.int64(width) * np.int64(height) - joint_size) * FULL // pixels
    return total


@njit(nogil=True)
def push(heap: Any, count: int, key: Any) -> None:
    """Add a key to a heap of `count` keys. The largest key is on top."""
    slot = np.uint64(count)
    one = np.uint64(1)
    while slot > np.uint64(0):
        above = (slot - one) >> one
        if heap[above] >= key:
            break
        heap[slot] = heap[above]
        slot = above
    heap[slot] = key


@njit(nogil=True)
def pop(heap: Any, count: int) -> Any:
    """Remove the largest key from a heap of `count` keys, and return it."""
    top = heap[0]
    last = np.uint64(count - 1)
    key = heap[last]
    one = np.uint64(1)
    slot = np.uint64(0)
    while True:
        child = (slot << one) + one
        if child >= last:
            break
        if child + one < last and heap[child + one] > heap[child]:
            child += one
        if heap[child] <= key:
            break
        heap[slot] = heap[child]
        slot = child
    heap[slot] = key
    return top


@njit(nogil=True)
def _sort_by_younger(pairs: Any, regions: int) -> Any:
    """Sort pairs by their younger node.

    Returns:
        older: uint32, the older node of each pair, with room for more pairs.
        first: the pairs whose younger node is b are first[b] to first[b + 1] - 1.
    """
    shift = np.uint64(32)
    first = np.zeros(2 * regions + 1, np.int64)
    for e in range(len(pairs)):
        first[np.uint32(pairs[e]) + 1] += 1
    for node in range(regions):
        first[node + 1] += first[node]
    place = first[:regions].copy()
    older = np.empty(4 * len(pairs) + 16, np.uint32)
    for e in range(len(pairs)):
        b = np.uint32(pairs[e])
        older[place[b]] = np.uint32(pairs[e] >> shift)
        place[b] += 1
    return older, first


@njit(nogil=True)
def _best_neighbour(older: Any, value: Any, joined: Any, first: int, end: int) -> Any:
    """Return value << 20 | node for the most similar neighbour in a slice. 0: all are joined already."""
    best = np.uint64(0)
    for slot in range(first, end):
        if not joined[older[slot]]:
            best = max(best, np.uint64(value[slot]) << np.uint64(20) | np.uint64(older[slot]))
    return best


@njit(nogil=True)
def _doubled(array: Any) -> Any:
    """Copy an array into one of twice the length."""
    longer = np.empty(2 * len(array), array.dtype)
    longer[: len(array)] = array
    return longer


@njit(nogil=True)
def _join(
    tree: Any, counts: Any, a: Any, b: Any, node: Any, strategy: Any, color_bins: int
) -> None:
    """Fill in a node from the two nodes that it joins."""
    boxes, size, shares = tree
    size[node] = size[a] + size[b]
    for side in range(2):
        boxes[node, side] = min(boxes[a, side], boxes[b, side])
        boxes[node, side + 2] = max(boxes[a, side + 2], boxes[b, side + 2])
    bins = counts.shape[1]
    first = 0 if strategy[0] else color_bins
    end = bins if strategy[1] else color_bins
    for i in range(np.uint64(first), np.uint64(end)):
        counts[node, i] = counts[a, i] + counts[b, i]
    if strategy[0]:
        normalise(counts[node], 0, color_bins, shares[node])
    if strategy[1]:
        normalise(counts[node], color_bins, bins, shares[node])


@njit(nogil=True)
def _allocate_tree(boxes: Any, size: Any, counts: Any, strategy: Any, color_bins: int) -> Any:
    """Allocate the arrays of all nodes and fill in the leaves. A strategy without histograms gets none."""
    regions, nodes = len(size), 2 * len(size)
    tree_boxes = np.empty((nodes, 4), np.int32)
    tree_boxes[:regions] = boxes
    tree_size = np.empty(nodes, np.uint32)
    tree_size[:regions] = size
    bins = counts.shape[1] if strategy[0] or strategy[1] else 0
    tree_counts = np.empty((nodes, bins), np.uint32)
    shares = np.empty((nodes, bins), np.uint16)
    if bins:
        tree_counts[:regions] = counts
        for r in range(regions):
            normalise(counts[r], 0, color_bins, shares[r])
            normalise(counts[r], color_bins, bins, shares[r])
    return (tree_boxes, tree_size, shares), tree_counts


@njit(nogil=True)
def group(
    boxes: Any, size: Any, counts: Any, pairs: Any, strategy: Any, color_bins: int, pixels: int
) -> Any:
    """Join regions by falling similarity.

    Each pair is stored with its younger node. The heap holds each node at most once, with its best pair. If
    the heap gives a pair whose older node is joined already, the younger node enters the heap again with its
    next best pair. So no similarity is computed twice.

    Args:
        boxes: (R, 4) int32.
        size: (R,) uint32 pixels.
        counts: (R, D) uint32 histograms.
        pairs: (E,) uint64, neighbours, the older (smaller) one in the upper half.
        strategy: (4,) uint8: whether colour, texture, size and fill count.
        color_bins: number of colour bins of the histograms.
        pixels: number of pixels of the picture.

    Returns:
        boxes: (M, 4) int32 of all nodes, in the order of their creation.
    """
    regions = len(size)
    tree, tree_counts = _allocate_tree(boxes, size, counts, strategy, color_bins)
    older, first = _sort_by_younger(pairs, regions)
    younger = np.empty(len(older), np.uint32)
    value = np.empty(len(older), np.uint32)
    after = np.empty(len(older), np.int32)
    latest = np.full(2 * regions, -1, np.int32)
    joined = np.zeros(2 * regions, np.uint8)
    heap = np.empty(2 * regions, np.uint64)
    heap_size = 0
    for leaf in range(regions):
        for pair in range(first[leaf], first[leaf + 1]):
            a = older[pair]
            value[pair] = similarity(a, np.uint32(leaf), tree, strategy, color_bins, pixels)
            younger[pair], after[pair], latest[a] = leaf, latest[a], pair
        best = _best_neighbour(older, value, joined, first[leaf], first[leaf + 1])
        heap_size = _push_node(heap, heap_size, leaf, best)
    seen = np.zeros(2 * regions, np.uint32)
    around = np.empty(2 * regions, np.uint32)
    node: Any = np.uint32(regions)
    low = np.uint64(0xFFFFF)
    while heap_size:
        key = pop(heap, heap_size)
        heap_size -= 1
        a, b = np.uint32(key >> np.uint64(20) & low), np.uint32(key & low)
        if joined[b]:
            continue
        if joined[a]:
            best = _best_neighbour(older, value, joined, first[b], first[b + 1])
            heap_size = _push_node(heap, heap_size, b, best)
            continue
        joined[a] = joined[b] = 1
        _join(tree, tree_counts, a, b, node, strategy, color_bins)
        links = (older, younger, after, first, latest)
        count = _add_neighbours(a, 0, around, links, joined, seen, node)
        count = _add_neighbours(b, count, around, links, joined, seen, node)
        used = first[node]
        while used + count > len(older):
            older, younger = _doubled(older), _doubled(younger)
            after, value = _doubled(after), _doubled(value)
        for other in around[:count]:
            older[used], younger[used] = other, node
            value[used] = similarity(other, node, tree, strategy, color_bins, pixels)
            after[used], latest[other] = latest[other], used
            used += 1
        first[node + 1] = used
        heap_size = _push_node(
            heap, heap_size, node, _best_neighbour(older, value, joined, first[node], used)
        )
        node = np.uint32(node + 1)
    return tree[0][:node]


@njit(nogil=True)
def _add_neighbours(
    member: Any, count: int, around: Any, links: Any, joined: Any, seen: Any, node: Any
) -> int:
    """Add the neighbours of one part of a new node to `around`, each once. Return the new count.

    Neighbours that are joined already are left out.

    Args:
        member: one of the two nodes that the new node joins.
        around: (M,) uint32, filled from `count` on.
        links: five arrays. older (L,), younger (L,): the two nodes of each pair. after (L,): the next pair
            with the same older node, or -1. first (M + 1,): the first pair whose younger node is this one.
            latest (M,): the last pair whose older node is this one.
        joined: (M,) uint8, 1 if a node is part of another node.
        seen: (M,) the last new node for which each node was added.
        node: the new node.
    """
    older, younger, after, first, latest = links
    for pair in range(first[member], first[member + 1]):
        other = older[pair]
        if not joined[other] and seen[other] != node:
            seen[other] = node
            around[count] = other
            count += 1
    chained: Any = np.int64(latest[member])
    while chained >= 0:
        other = younger[chained]
        if not joined[other] and seen[other] != node:
            seen[other] = node
            around[count] = other
            count += 1
        chained = np.int64(after[chained])
    return count


@njit(nogil=True)
def _push_node(heap: Any, heap_size: int, node: Any, best: Any) -> int:
    """Put a node into the heap with its best pair, if it has one. Return the heap's new count.

    A key is value << 40 | older << 20 | younger. So of two pairs with equal value, the younger one comes
    first.
    """
    if best == np.uint64(0):
        return heap_size
    push(heap, heap_size, best << np.uint64(20) | np.uint64(node))
    return heap_size + 1
