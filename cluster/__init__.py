"""Coordination between peers: leases, recovery, retention, and a leader that fires the schedules.

A node is alive while its lease is. The lease belongs to an *incarnation*, an id made at each start, and is renewed from
a thread of its own that a busy event loop cannot starve. Three clocks never meet: the store's decides when a lease has
expired, the node's monotonic one decides how long the node may trust it, measured from before the request and ending
earlier, and the loop's only paces the renewals.

Three things follow. A node whose trust has ended starts nothing new and cancels what runs, although its claims stay
valid until a peer reaps them: so a short outage costs no work, and a long one never runs a body in two places for
longer than a body takes to end. Any peer may reap, but only after its own renewals were answered for a full TTL: so
after an outage of the store, when every lease has expired, the living renew before anybody may call them dead. And an
incarnation that was marked dead never returns; the node joins under a new one and says which it was before, so that a
lapse does not count as a crash of what it ran.

One node leads, and only it fires schedules. That is for quiet, and nothing is correct because of it: that a nominal
time is fired once is a compare-and-set in the store, on the schedule's revision and its next time, so a second leader
only finds that its belief is stale and reads again. Hence a leader needs no fencing of its own beyond its term, which
goes along with every fire so that one who was succeeded hears of it. Leadership belongs to a coordinator, which may be
another server than the store; the term says whose it is, as terms of two coordinators cannot be compared.

A leadership is trusted like a lease: for a ttl less a margin, on the monotonic clock, counted from before the request
that was answered. Whoever hears nothing until then acts no more, and its successor is not chosen before the whole ttl
is over. A node whose lease is not trusted or whose clock is off steps down and resigns, and so does one that stops; a
campaign whose answer was lost leaves the leadership with a node that does not know it, until its next one.

Two more clocks meet in a fire. When it is time, and whether a time is late, is judged by the store's clock, since the
instance falls due by that one and the ledger records by it. The last renewal told how far the leader's own is ahead,
and from then on the monotonic time counts (`CorrectedTime`). So a wall clock that is set between two renewals changes
nothing: a step of years would otherwise use up the nominal times of those years.

What a leader knows of schedules is a copy (`timetable`), read at the start of its term and then kept up by revisions,
about once a second and on hints. What is due goes out before what is late, and what is late takes one step at a time
(`misfire` says which), so an outage is caught up on beside the present and not before it.
"""
