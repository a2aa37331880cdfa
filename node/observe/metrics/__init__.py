"""What a node tells Prometheus.

Three sources, so that a scrape costs the work of a node next to nothing:

* What happens here (runs, claims, commits, fires) is counted as it happens, in plain numbers on the node's own loop, by
  `Tallies`, an `Observer`. A round of the claim loop is one call, however many instances it carried.
* How the node is (workers, lease, leader) is asked of it at the scrape: `Vitals`, which asks nobody.
* How the namespace is (queues, nodes) is read from the store at the scrape, in numbers that need no scan, at most once
  a second and within a bound of time. It is the same on every node, so a query takes `max by (kind)`, never a sum.
  While the store is away these series are left out, and `peerjob_store_up` is 0.

Each `Metrics` has a registry of its own: several nodes of one process do not mix.
"""

from .collector import Metrics
from .server import MetricsServer, serve_metrics

__all__ = ["Metrics", "MetricsServer", "serve_metrics"]
