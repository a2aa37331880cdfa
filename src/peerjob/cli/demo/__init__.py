"""`jobd demo`: a cluster works on this machine, one of its nodes is killed, and the demo checks that no job is lost.

Read `workload` (the jobs), then `course` (what the demo does, step by step), then `checks` (what it verifies). The
other modules are `command` (the options, signals and the exit status), `processes` (nodes, server and the count in one
process) and `view` (the terminal).

The checks use only the public verbs of the manager:

* Each count job counts one file of the standard library. The sum of all results must equal the count of one process.
* The demo kills a node that runs slow jobs, so that its peers have jobs to take over. It schedules an urgent job just
  before the kill. So both ends of "seconds to recovery" are on one clock, the store's.
* At the end the demo reads each instance with its history. A scheduled instance that is not final is *lost*. An
  instance is *completed twice* if its history has two Completed entries, or if its result is of another run than its
  last claim. For that, each job returns a receipt with its node and fence.

* Half way, the demo adds orders: bodies with steps, children and a wait for an approval, which the demo gives. The
  node that it kills charges an order. Each call of a step's function makes another value, and the nodes report each
  call and each value that a body gets. A value is *accepted twice* if the bodies of one order got two values for a
  step. A step that ran more than once is no fault: the kill came before its value was stored.

A job that the killed node had run to its end, but had not committed, runs once more: delivery is at least once. So the
number of runs is reported, and is no check.

Each child process holds a pipe to the demo as its standard input. When the demo ends, however it ends, the pipe
closes and the child ends too.
"""
