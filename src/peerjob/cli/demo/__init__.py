"""`jobd demo`: a cluster at work on this machine, one of its nodes killed, and the proof that nothing was lost.

The proof rests on the public verbs alone, as any user could call them:

* The work is real and its result known: one job counts one file of the standard library. The sum of all results has
  to equal what one process counts by itself.
* The killed node is one that the store shows at work on slow jobs, so that there is something to take over. The kill
  is marked in the store by an urgent job scheduled just before it, which puts both ends of "seconds to recovery" on
  one clock, the store's.
* At the end every instance is read with its history. *Lost* is what was scheduled and is not final; *completed
  twice* is what has two Completed entries, or a result that another run than its last claim has left. Each body
  returns a receipt with its node and fence for that.

A body that the dead node had run to its end, without having told the store, runs once more: fenced at-least-once,
never exactly once. So runs are counted apart, and are no check.

Whatever the demo starts hangs on a pipe that only the demo's process holds open: a child whose standard input ends
knows that the demo has gone, however it went, and ends too.
"""
