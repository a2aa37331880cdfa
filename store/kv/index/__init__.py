"""Queues whose first entries are cheap to read, counters, and the choice of a claim among queues."""
