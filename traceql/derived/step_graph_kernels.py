"""Compiled loops over the edges of steps' dependency graphs."""

from __future__ import annotations

from typing import Any

import numpy as np

from traceql.compiled import compiled
from traceql.derived.step_graph_edges import GONE


@compiled
def longest(nodes: int, src: Any, dst: Any, ns: Any, rank: Any, roots: Any) -> Any:
    """Latest start of every node and the edge that makes it, −1 for roots and what no root reaches.

    ``src`` must be sorted. Of edges that make the same start the one of the lowest ``rank`` is kept. The third array is
    how many edges into each node were not followed: more than none behind a cycle.
    """
    time = np.full(nodes, 2 * GONE, np.int64)
    best = np.full(nodes, -1, np.int64)
    waiting = np.zeros(nodes, np.int64)
    first = np.zeros(nodes + 1, np.int64)
    for edge in range(len(src)):
        waiting[dst[edge]] += 1
        first[src[edge] + 1] += 1
    for node in range(nodes):
        first[node + 1] += first[node]
    for root in roots:
        time[root] = 0
    ready = np.empty(nodes, np.int64)
    end = 0
    for node in range(nodes):
        if waiting[node] == 0:
            ready[end] = node
            end += 1
    done = 0
    while done < end:
        node = ready[done]
        done += 1
        for edge in range(first[node], first[node + 1]):
            target = dst[edge]
            at = time[node] + ns[edge]
            if at > time[target] or (at == time[target] and best[target] >= 0 and rank[edge] < rank[best[target]]):
                time[target] = at
                best[target] = edge
            waiting[target] -= 1
            if waiting[target] == 0:
                ready[end] = target
                end += 1
    return time, best, waiting


@compiled
def paths(ends: Any, src: Any, best: Any) -> Any:
    """Edges of the longest path to each of ``ends``, from its start on: (which end, edge) as two arrays."""
    count = 0
    for end in ends:
        node = end
        while best[node] >= 0:
            count += 1
            node = src[best[node]]
    which, edges = np.empty(count, np.int64), np.empty(count, np.int64)
    at = 0
    for number in range(len(ends)):
        length = 0
        node = ends[number]
        while best[node] >= 0:
            length += 1
            node = src[best[node]]
        node = ends[number]
        for back in range(length):
            which[at + length - 1 - back] = number
            edges[at + length - 1 - back] = best[node]
            node = src[best[node]]
        at += length
    return which, edges
