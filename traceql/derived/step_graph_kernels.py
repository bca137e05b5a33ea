"""Compiled loops over the edges of steps' dependency graphs."""

from __future__ import annotations

from typing import Any

from traceql.compiled import Ints, Small, compiled


@compiled(Ints, Ints, Ints, Small, Ints, Ints, Ints, Ints, Ints, Ints)
def longest(
    src: Any, dst: Any, ns: Any, rank: Any, roots: Any, time: Any, best: Any, waiting: Any, first: Any, ready: Any
) -> None:
    """Fill the latest start of every node (``time``) and the edge that makes it (``best``), −1 for roots and what no root
    reaches.

    ``src`` must be sorted. Of edges that make the same start the one of the lowest ``rank`` is kept. ``waiting`` is filled
    with how many edges into each node were not followed: more than none behind a cycle. Given are ``time`` long before
    any, ``best`` of −1, ``waiting`` and ``first`` (one more than nodes) of 0, and ``ready``, room for all nodes.
    """
    nodes = len(time)
    for edge in range(len(src)):
        waiting[dst[edge]] += 1
        first[src[edge] + 1] += 1
    for node in range(nodes):
        first[node + 1] += first[node]
    for root in roots:
        time[root] = 0
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


@compiled(Ints, Ints, Ints)
def path_lengths(ends: Any, src: Any, best: Any) -> int:
    """How many edges the longest paths to ``ends`` have, all together."""
    count = 0
    for end in ends:
        node = end
        while best[node] >= 0:
            count += 1
            node = src[best[node]]
    return count


@compiled(Ints, Ints, Ints, Ints, Ints)
def paths(ends: Any, src: Any, best: Any, which: Any, edges: Any) -> None:
    """Fill the edges of the longest path to each of ``ends``, from its start on, and ``which`` end each is of."""
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
