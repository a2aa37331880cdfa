"""Engine B: a store on any transactional key-value store.

A driver implements `base.KeyValue`. The rest is the same for all drivers, so the memory driver tests the code that runs
on etcd. The memory driver can also enforce the limits of etcd, and count what etcd would charge.

The folders, from the ground up; each imports only those before it, and the last three do not know each other:
`format` (what is stored), `index` (queues and counters), `write` (how a command writes), `kinds`, `queue` (the commands
of instances), `nodes`, `cron`, `durable`. `store` is the whole.

To follow a job from enqueue to its end, read in this order:

1. `base` (transactions), `keys` (the layout), `rows` and `schedule_rows` (the records)
2. `context` and `store`: what all verbs share; `KVStore` inherits one group of verbs per file
3. `transaction_plan`: how an instance enters and leaves indexes, queues, keys and slots; `enqueue` is its simplest user
4. `writer`: many transactions in one request; with `counts` (counters) and `answers` (repeated requests)
5. `queues` and `scan`: queues whose first entries are cheap to read
6. `claim`: how a node gets instances, in four parts: `claim_call` (which repeats an answer), `claim_due`,
   `claim_select`, `claim_take`. `claim_heads` reads what a claim needs first; `claim_idle` ends one without instances
7. `commit`, `cancel`, `logs`, `retention`: how instances end and are removed

Then by topic:

* nodes: `liveness` (the lease), `nodes`, `recovery`, `clock_skew`; leader: `elections`
* schedules: `schedules`, `schedule_writes`; fires: `firing`, `fire_reads`, `fire_plan`, `ledger`
* readers: `reading`, `watching`, `recount`; hints: `hints`; drivers without a server: `local_watch`
* many kinds on one node: `kind_sets`, `kind_groups`, `index_feed`, `kind_cleanup`
* durable bodies: `thread_rows`, `waits`, `step_values`, `attaching`; the verbs in `durable`, of which `settling` tells
  what follows an end
* damage: `set_aside`; other releases: `store`

The layout, in short (`keys` has all keys): `state/<id>` is the record of an instance; `args/`, `out/`, `progress/` and
`log/` are its large parts. Due instances are in `ready/<kind>/…`, later ones in `due/…`, claims in
`own/<incarnation>/<id>`, and `by/<kind>/<state>/<id>` is the index of all other states. `head/<queue>` is a lower bound
of a queue. `node/` and `live/` are the record and the lease of a node. `schedule/`, `next/`, `slot/` and `ledger/`
belong to schedules.

The ideas:

* **One transaction per instance.** A transaction compares the revision of the instance's record, and changes record,
  indexes, ownership and unique key together. A request has many transactions, so a conflict delays one instance only.
* **Small records.** Transitions do not touch large arguments, results, progress and log lines: these have separate
  keys. Small arguments and results are in the record, where they cost less than a key.
* **Claims without a lease.** Only `live/<incarnation>` ends with a lease. A node is dead when its `node/` record says
  so. Until then, the node may continue with a new lease. Claims compare this record; commits compare the fence.
* **No open range on a hot path.** Each queue has a head, and reads begin there. The ready and delayed queues, the ends
  of retention and the indexes of final instances are such queues.
* **No background work.** Claims move due instances, commits remove final ones, reads of counters correct the counters.
* **One fire per time.** A fire compares and rewrites the small `next/` record. Ledger, slot and instance change in the
  same transaction. Any verb that ends the holder of a slot passes the slot on, also in the same transaction.
* **Nodes compare their clocks**, because no server's clock decides what is due. A node whose clock is off leaves that
  to others.
* **Needs are markers, not counts.** A wait ends with the last marker, so ends that come at once have no conflict. Each
  end of a child or of a parent writes a key below `settle/`. What follows from it can be repeated after any step.
* **Hints are keys** under the incarnation that they are for. A node reads them with a watch; a lease deletes the rest.
  A store tells its own incarnations without keys (`own_hints`).
"""
