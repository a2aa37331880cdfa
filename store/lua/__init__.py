"""Engine A: Redis and Valkey.

Each verb is one Lua script (`scripts/`), which the server runs as one atomic step; two thin drivers carry them.

What the scripts keep
---------------------
* The server's TIME decides due-ness and expiry.
* A script decodes, checks and reads every key it will write before its first write, and nothing after that can fail.
  Redis does not roll back: a wrong type, a full memory or a slot that moves to another server must show before.
* Only `enqueue` may be refused when memory is full; whatever finishes work is flagged `allow-oom`.
* All keys of a namespace share a hash tag, hence a slot: a cluster serves a namespace from one shard.
* Ownership is the entry of an instance in its holder's `own:` hash; the fence in it is max(previous + 1, TIME), so
  that it grows even over a server that lost its last second.
* What answers a repeated request is kept per (incarnation, verb), and written in the step that it answers for.

Where an instance is
--------------------
Its record is one string (numbers, names, history, result) that is read by one MGET and written by one MSET for a whole
batch; its arguments are another that is never rewritten. Scheduled ones are in a sorted set per kind (score: priority,
member: due time and id), suspects in one of their own, those not due yet in one sorted set by due time. A sorted set
per (state, kind) in order of ids serves lookups and counts. Final ones are in a sorted set per kind by expiry.
"""
