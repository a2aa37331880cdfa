"""Nodes: leases, recovery, leadership, watches, and what nodes report."""
