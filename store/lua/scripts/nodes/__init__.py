"""Scripts of nodes: leases, recovery and leadership."""
