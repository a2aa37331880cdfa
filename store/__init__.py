"""The shared truth of a cluster: the store contract, and two engines that keep it.

Read in this order:

1. `base` is the contract: the commands of a store and their guarantees. Nodes use a store only through it.
2. `drivers` opens the store of a URL; `url` reads URLs.
3. `lua` is engine A: Redis and Valkey, one Lua script a command.
4. `kv` is engine B: the same commands over a transactional key-value store. `memory` and `etcd` are its drivers.

Both engines use `calls` (limits of time, and retries while the server is away) and `rules` (which releases may write a
namespace; limits and texts of fires). `paging` is for callers. `direct` is for threads without an event loop.
"""
