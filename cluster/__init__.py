"""Coordination of peers: election, membership and recovery."""
