"""Engine A: Redis and Valkey.

Each verb is one Lua script (`scripts/`), which the server runs as one atomic step; two drivers carry them, through
redis-py and through valkey-glide.

What the scripts keep
---------------------
* The server's TIME decides due-ness and expiry.
* A script decodes, checks and reads every key it will write before its first write, and nothing after that can fail.
  Redis does not roll back: a wrong type or a full memory must show before.
* Only those that enqueue, or put a schedule, may be refused when memory is full; whatever finishes work, or accounts
  for a nominal time without an instance, is flagged `allow-oom`.
* All keys of a namespace share a hash tag, hence a slot: one shard of a cluster serves it. A script declares two keys,
  one of which never exists, so that both shards refuse it while the slot moves: it never sees half a namespace.
* Ownership is the entry of an instance in its holder's `own:` hash; the fence in it is max(previous + 1, TIME), so
  that it grows even over a server that lost its last second. So do the terms of leaders and the revisions of schedules.
* What answers a repeated request is kept per (incarnation, verb), and written in the step that it answers for.

Where an instance is
--------------------
Its record is one string (numbers, names, history, result) that is read by one MGET and written by one MSET for a whole
batch; its arguments are another that is never rewritten. Scheduled ones are in a sorted set per kind (score: priority,
member: due time and id), suspects in one of their own, those not due yet in one sorted set by due time. A sorted set
per (state, kind) in order of ids serves lookups and counts. Final ones are in a sorted set per kind by expiry.

What a schedule is
------------------
A hash with what was put and what a fire moves on, found by revision in a sorted set; two sorted sets by nominal time
with its ledger, one of instances and one of stretches. Of a batch of fires, each is read, judged and written before
the next is looked at: they see each other, and none is half done. The request of a fire is kept in its record, and so
are those of a whole call in a stretch that it made, so that a call sent again answers as it did.

Its slot is a sorted set: the first has it, the others wait for it. It outlives the schedule. An instance names its
slot in its record, so that whatever ends it need not look for one; a hash from instance to schedule serves those whose
record cannot be read. A script notes who leaves a slot while it plans, and passes the slot on once all of that is
known.

What a call costs
-----------------
Lua builds every function of a script anew at each call, so a script gets only the definitions that it names, and a
plain single enqueue, whose cost is compared to an LPUSH, has a script of its own. Enqueues that come while one is
under way go together. Redis-py's connections are used without its client, whose bookkeeping costs more than a script.
"""
