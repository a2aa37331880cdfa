"""Engine B: the contract of a store on any transactional key-value store.

A driver implements `base.KeyValue`; everything else here is written once, for all of them. The memory driver is one,
and it can hold the engine to what etcd takes and charges (`etcd_limits`, `memory_data.Costs`). The ideas:

* **One step per instance.** A transition is a step that compares the revision of the instance's record and changes
  record, indexes, ownership and key together. A batch is one request of many steps, so that a conflict costs one
  instance, which is read again (`writer`). What speaks of the whole batch goes along if all steps were applied:
  counters (`counts`), the answers for a request that is sent twice (`journal`), and the look at who waits for news.
* **Records are small.** Large arguments and results, the progress and the log lines have keys of their own, which a
  transition does not touch (`keys` lists all of them); small ones cost less in the record than as one more key.
* **Claims hang on no lease.** Only `live/<incarnation>` does. A node is dead once its `node/` record says so; until
  then it may come back with a new lease. Claims compare that record, commits compare the fence.
* **No open range on a hot path.** Every queue has a head that moves with it, and is read from there in windows
  (`queues`). The ready queues, the delayed instances, the ends of retention and the indexes of final instances are
  such queues.
* **Nothing in the background.** Due instances are moved by whoever claims (`delayed`), final ones removed by whoever
  commits (`retention`), leases end when somebody looks, counters are compared with the indexes by who reads them
  (`recount`).
* **A schedule is fired by whoever knows how it stands.** A fire rewrites the small `next/` record that it compares, and
  ledger, slot and instance go with it (`firing`). The slot of a schedule is passed on in the step that ends its holder,
  whichever verb that is (`slots`); the leader is whose lease a key hangs on (`elections`).
* **Clocks are compared**, as no server's clock decides; a node that is off leaves it to the others (`skew`).
* **Hints are keys** below the incarnation they are for, read with a watch and forgotten with a lease (`hints`).

Whoever reads the path from claim to commit needs `claim`, `selection`, `commit` and `writer`, in this order.
"""
