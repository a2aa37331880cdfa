"""Shows what a node does: metrics, traces and probes.

Read in this order:

1. `observer`: the interface by which metrics and traces learn of the work.
2. `node_stats` and `probes` read the parts of a running node.
3. `metrics`: counts events and serves all numbers to Prometheus, over HTTP.
4. `tracing`: adds spans to the work; `spans` makes them, and alone imports OpenTelemetry.
5. `loop_stalls`: warns if a body blocks the event loop.
"""
