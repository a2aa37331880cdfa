"""`jobctl`: manages a cluster from outside, through any node that serves gRPC.

Read `commands` first: each verb is a coroutine that takes a `ClientSession` (the connection and the output) and its own
arguments. `verb` makes a command of it, with the shared options of `settings`. These may stand before or after the
verb; the latter override the former. `query_options` are the options that select instances.

The verbs are in `lookups` (get, list, count), `schedule`, `events` (logs, history, watch), `instances` (cancel, retry,
wait), `clear`, `moving` (export, import), `schedules`, `cluster` (workers, drain, leader, stats, top), `limits` and
`why`, with `reasons`. `output` prints results, `tables` has the columns of each kind of object, and `errors` the texts
of errors.

Results go to standard output, everything else to standard error. A table fits the terminal; without a terminal it is
never cut. Control characters in the output of jobs are escaped.

Exit statuses:

0    success
1    failed: an instance that jobctl waited for did not complete, or an operation failed
2    wrong usage: an option, an argument, or a setting
3    not found: no such instance, schedule or job
4    unreachable: no node answers, or its store does not
5    refused: no token, a wrong token, or a token without this right
6    the time was over
130  interrupted
"""
