"""Coordination between peers: leases, recovery, retention, and a leader that fires the schedules.

Read in this order: `role` (the loop that each role is), `lease`, `recovery`, `election`, `cron`. `cron` uses
`timetable` (which schedules are due), `misfire` (what to do about late times), `fires` (what to send) and
`unserved_kinds`.
`retention` deletes old instances. `loop_thread` runs event loops in threads.

**Leases.** A node is alive while its lease is. The lease belongs to an incarnation, and a thread of its own renews it,
which a busy event loop cannot delay. Three clocks are involved, and none is compared with another:

- The clock of the store decides when a lease has expired.
- The monotonic clock of the node decides how long the node trusts its lease. Trust counts from before the request, and
  ends earlier than the lease.
- The clock of the thread's event loop only paces the renewals.

Three rules follow:

- A node without trust starts nothing and cancels running bodies. Its claims stay valid until a peer reaps them. So a
  short outage costs no work. In a long outage, a body runs in two places only until the first one has ended.
- Any peer may reap, but only after its own renewals were answered for a full TTL. After an outage of the store, when
  every lease has expired, live nodes therefore renew before a peer may reap them.
- An incarnation that was declared dead never returns. The node joins under a new incarnation and names the old one, so
  that the lapse does not count as a crash of its instances.

**Leadership.** One node leads, and only the leader fires schedules. Leadership avoids duplicate work; correctness does
not depend on it. The store compares revision and next time of a schedule with each fire, so each nominal time is fired
once. A second leader gets the answer "stale" and reads the schedule again. Each fire carries the term, so a deposed
leader learns of its successor. The coordinator of the leadership may be another server than the store. Terms of two
coordinators cannot be compared, so a term names its coordinator.

A leader trusts its leadership like a lease: for a TTL less a margin, counted from before the answered request. Its
successor is chosen after the whole TTL. A node resigns when it stops, when it no longer trusts its lease, or when its
clock is off. If the answer to a campaign is lost, the node may lead without its knowledge until its next campaign.

**Time of a fire.** The clock of the store decides when a schedule is due and whether a time is late, because due times
and ledger use that clock. Each renewal tells the leader how far its own clock is ahead. Between renewals the leader
adds monotonic time (`CorrectedTime`). So a step of the wall clock between two renewals changes nothing. Otherwise a
step of years would use up the nominal times of those years.

The leader keeps a copy of all schedules, the timetable. It reads them at the start of its term, then the changes by
revision: about once a second, and after hints. Schedules that are due now come before late ones, and each late schedule
takes one step at a time. So catching up after an outage does not delay present fires.
"""
