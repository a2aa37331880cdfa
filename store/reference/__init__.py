"""The reference store: the contract of `peerjob.store.base` as a program, in the memory of one process.

It tells what each command means. It has no indexes but dictionaries and sorted lists, and no command is clever. The
other engines give the same answers at a bounded cost; the tests compare them with this store.

Read in this order: `state` has what a namespace holds, and `transaction` what all commands share. `enqueue`, `claim`,
`commit`, `cancel` and `run_now` are the life of an instance; `ends` is its end, and `retention` its removal.
`durable` and `edges` are about instances that wait, for signals and for each other.
`liveness`, `recovery` and `hints` are about nodes, `schedules`, `firing` and `ledger` about schedules. `store` wraps
each command as a method, under one lock.
"""
