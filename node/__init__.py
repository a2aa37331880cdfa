"""A node: one of equal peers that share a store.

Read in this order: `node` (the public class), `runtime` (the parts of a running node, in the order in which they are
built), `work` (from a claim to its commit), `body` (how a body is called), `manager` (the verbs of the manager),
`observe` (metrics, traces, probes). `exit` leaves the cluster when a program ends without a stop.
"""
