"""Metrics of one node, for Prometheus.

There are three sources, so that a scrape costs a node little:

* Events on this node (runs, claims, commits, fires) are counted as they happen, in plain numbers, by `EventCounts`, an
  `Observer`. One round of the claim loop is one call for any number of instances.
* The state of the node (workers, lease, leader) is read at the scrape, from `NodeStats`.
* The state of the namespace (queues, nodes) is read from the store at the scrape, at most once a second. The read needs
  no scan, and has a time limit. While the store does not answer, these series are left out, and `peerjob_store_up` is
  0. All nodes export the same values, so a query uses `max by (kind)` and not a sum.

`catalogue` lists all metrics; `collector` makes samples of the three sources; `server` shows them over HTTP (`http`).
Each `Metrics` has its own registry, so several nodes in one process do not mix.
"""

from .collector import Metrics
from .server import MetricsServer, serve_metrics

__all__ = ["Metrics", "MetricsServer", "serve_metrics"]
