"""Engine A: Redis and Valkey.

Each command of the store is one Lua script (`scripts/`), which the server runs as one transaction.

The folders, from the ground up; each imports only those before it: `scripts` (the commands, by what they serve, and how
they are built), `client` (connections), `commands` (the contract) and `check` (the server). `store` is the whole.

Read in this order:

1. `scripts/lib/keys.lua` lists all keys; `scripts/lib/record.lua` has the format of a record; `scripts/lib/base.lua`
   collects writes. Then read `enqueue.lua`, `claim.lua` (its four parts are `scripts/lib/claim_*.lua`), `commit.lua`,
   `reap.lua` and `fire.lua` in the other folders.
2. `script` builds each script from its file and the definitions that it names.
3. `store` is the whole: it inherits the groups of commands `queue_commands`, `node_commands`, `schedule_commands`,
   `read_commands` and `retention_commands`. Their base is in `driver`; `codec` converts values.
4. `driver` is a client of a server. `redis_driver` keeps connections, and `connection` has their calls. `opening`
   opens them with `redis_py`, and `credentials` has the answers of a provider. `announced` reads replies, and
   `refusals` has the errors for them. `blocking_driver` sends for threads without an event loop. `cluster_search` and
   `sentinel` find the server. `glide_driver` (with `glide_client`) uses valkey-glide, for `valkey+glide://` only.
   `address` and `durability` read the URL.
5. `separate_clients`: the lease and the leadership. `capabilities` reads the properties of the server, and `diagnosis`
   its health.

Rules of the scripts
--------------------
* The server's TIME decides whether an instance is due and whether a lease has expired.
* A script decodes, checks and reads every key that it will write before its first write. Nothing can fail after that.
  Redis does not roll back, so a wrong type or a full memory must show before. So must a missing right: `script` puts a
  check of the rights of all writes in front of each script.
* The server may refuse only scripts that enqueue or put a schedule when its memory is full. Scripts that finish work,
  or record a nominal time without an instance, have the flag `allow-oom`.
* All keys of a namespace share a hash tag, hence a slot: one shard of a cluster serves the namespace. A script
  declares two keys, one of which never exists. So both shards refuse it while the slot moves, and it never sees half a
  namespace.
* Ownership is the entry of an instance in the `own:` hash of its holder. The fence in it is max(previous + 1, TIME),
  so it grows even if the server lost its last second. Terms of leaders and revisions of schedules grow in the same
  way.
* The answer for a repeated request is stored per (incarnation, command), in the same transaction as its effect.

Where an instance is stored
---------------------------
Its record is one string: numbers, names, history, result. One MGET reads and one MSET writes the records of a batch.
Its arguments are another string, which never changes. Scheduled instances are in a sorted set per kind (score:
priority, member: due time and id). Suspects have a sorted set of their own; instances that are not due yet are in one
sorted set by due time. A sorted set per (state, kind), in the order of ids, serves lookups and counts. Final instances
are in a sorted set per kind by expiry.

How a schedule is stored
------------------------
A schedule is a hash with its definition and with the fields that a fire changes; a sorted set finds it by revision.
Two sorted sets by nominal time are its ledger: one of instances, one of stretches. In a batch of fires, each fire is
read, checked and written before the next, so a fire sees the earlier ones, and none is half done. A record keeps the
request of its fire; a stretch that one call built keeps all requests of that call. So a call that is sent again gets
the same answer.

The slot of a schedule is a sorted set: its first instance holds the slot, the others wait. The slot outlives the
schedule. The record of an instance names its slot, so the script that ends the instance need not search for it. A hash
from instance to schedule serves instances whose record cannot be read. A script notes the instances that leave a slot
while it plans, and gives the slot to the next instance when it knows all of them.

Cost of a call
--------------
Lua builds every function of a script again at each call, so a script contains only the definitions that it names. A
plain single enqueue has its own script, since its cost is compared with an LPUSH. redis-py opens connections, and makes
no calls: its client and its streams cost more than a script.
"""
