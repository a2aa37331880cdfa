"""Coordination between peers: leases, recovery and retention.

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
"""
