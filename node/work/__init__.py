"""From a claim to its commit. One round of the claim loop is one call of `Store.turn`: it commits and claims.

Read in this order:

1. `claim_loop`: takes outcomes out of the outbox, commits them, claims, and gives the claims to the pool
2. `run`: one claim and its run; `HeldClaims`, all claims of this node
3. `pool`: starts a run when a worker is free; decides how many instances the next round claims
4. `runner`: runs the body, and decides the outcome
5. `outcome_builder`: makes the `Outcome`; `backoff` and `failure_log` help
6. `outbox`: holds outcomes and reports until the next round

Then the edges: `change_listener` and `processors` (waiters, observers, and callbacks of users), `context_backend` (what
a body asks of its node), `hint_router` (hints from the store), `reconciler` (claims whose answer was lost),
`refused_records` (requests that the store refuses for good).
"""
