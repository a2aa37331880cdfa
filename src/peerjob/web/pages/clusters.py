"""The first page of a dashboard with several clusters: the totals of each."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from peerjob.web.cluster import ServedCluster
from peerjob.web.links import Links
from peerjob.web.visit import Shown, Visit


async def clusters_page(visit: Visit, clusters: Mapping[str, ServedCluster]) -> Shown:
    """Show the totals of all clusters; a cluster that does not answer shows the last ones."""
    samples = await asyncio.gather(*(cluster.samples.current() for cluster in clusters.values()))
    rows = [
        (name, Links(root=visit.root, cluster=name).url("/"), sample)
        for name, sample in zip(clusters, samples, strict=True)
    ]
    return Shown("clusters.html", rows=rows)
