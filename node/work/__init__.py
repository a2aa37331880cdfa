"""From a claim to its commit. One round of the claim loop is one call of `Store.turn`: it commits and claims.

Read in this order:

1. `claim_loop`: takes the unsent outcomes, commits them, claims, and gives the claims to the pool
2. `run`: one claim and its run; `HeldClaims`, all claims of this node
3. `pool`: starts a run when a worker is free; decides how many instances the next round claims
4. `runner`: runs the body, and decides the outcome
5. `outcomes`: makes the `Outcome`; `backoff` and `failure_log` help
6. `unsent_reports`: holds outcomes and reports until the next round, and wakes the claim loop for them
7. `in_flight`: the requests that the store has not answered, of the claim loop and of `hint_wait`

Then the edges: `changes` and `processors` (waiters, observers, hints from the store, and callbacks of users),
`context_backend` (what a body asks of its node), `reconciler` (claims whose answer was lost), `refused_records`
(requests that the store refuses for good).
"""
