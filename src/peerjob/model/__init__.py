"""Values that all layers share. No module here does I/O.

Read in this order:

- `job`: `Job` and `Call`. `policy` and `timing` check the options; `definition` is the stored form of a schedule.
- `state`, `record` and `firing`: what a store keeps about instances and schedules.
- `query`: criteria for lookups. `errors`: all errors. `limits`: sizes of texts. `clock`, `durations`, `ids`: times.
- `injected` and `signature`: parameters of a job that the node supplies; `direct_call` calls a job outside of a node.
- `codec`, `bounds` and `spec`: how arguments, results and errors are encoded. `references`: functions stored by name.
- `listen_address` and `trusted_proxies`: addresses of servers and callers.
- `cron` and `recurrence`: nominal times of schedules; `explain` describes a cron text.
"""
