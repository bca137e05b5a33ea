"""How the GPUs are linked, and which of them make a tensor-parallel group of a given kind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations

KINDS = ("nvlink", "numa", "across")
"""nvlink: all pairs by NVLink, one NUMA node if possible. numa: one NUMA node, no NVLink. across: several nodes."""

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Topology:
    """Links between GPUs ("GPU0" → "GPU1" → "NV18") and each GPU's NUMA node, as nvidia-smi writes them."""

    links: dict[str, dict[str, str]]
    numa: dict[str, str]

    def link(self, a: int, b: int) -> str:
        return self.links.get(f"GPU{a}", {}).get(f"GPU{b}", "")

    def node(self, gpu: int) -> str:
        return self.numa.get(f"GPU{gpu}", "")


def parse(text: str) -> Topology:
    """The matrix of `nvidia-smi topo -m`; empty when there is none."""
    rows = [_ANSI.sub("", line).split("\t") for line in text.splitlines()]
    header = next((row for row in rows if any(cell.strip() == "GPU0" for cell in row)), [])
    names = [cell.strip() for cell in header]
    links: dict[str, dict[str, str]] = {}
    numa: dict[str, str] = {}
    for row in rows:
        name = row[0].strip()
        if row is header or not re.match(r"GPU\d+$", name):
            continue
        cells = dict(zip(names, [cell.strip() for cell in row], strict=False))
        links[name] = {
            other: link for other, link in cells.items() if re.match(r"GPU\d+$", other) and link not in ("", "X")
        }
        if cells.get("NUMA Affinity"):
            numa[name] = cells["NUMA Affinity"]
    return Topology(links, numa)


def kind_of(topology: Topology, gpus: tuple[int, ...]) -> str | None:
    """The kind of one group: single, nvlink, numa or across; None when the links are unknown."""
    if len(gpus) == 1:
        return "single"
    links = [topology.link(a, b) for a, b in combinations(gpus, 2)]
    if not all(links):
        return None
    if all(link.startswith("NV") for link in links):
        return "nvlink"
    nodes = {topology.node(gpu) for gpu in gpus}
    far = any(link == "SYS" for link in links)
    return "across" if far or len(nodes) > 1 else "numa"


def group(topology: Topology, gpus: list[int], size: int, kind: str) -> tuple[int, ...] | None:
    """The first group of ``size`` of ``gpus`` that is of ``kind``, of one NUMA node if there is one; None without any.

    Where every pair has NVLink, *across* is a group that spans NUMA nodes.
    """
    candidates = list(combinations(sorted(gpus), size))
    fitting = [c for c in candidates if kind_of(topology, c) == kind]
    if kind == "across" and not fitting:
        fitting = [c for c in candidates if len({topology.node(g) for g in c}) > 1]
    fitting.sort(key=lambda c: (kind != "across" and len({topology.node(g) for g in c}) > 1, c))
    return fitting[0] if fitting else None
