"""Random programs of contract calls, run against two stores in lockstep: the reference store, and an engine."""
