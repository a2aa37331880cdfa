"""The objects that users hold. A handle shows a snapshot, and has verbs to act on the thing itself.

Read in this order:

- `manager`: the verbs of a cluster. `Node` and `Client` implement `Manager`.
- `instance`: one execution of a job. `entries`: its history and its log lines.
- `schedule`: one recurrence of a job.
- `context`: the run of an instance, seen from inside the job. `job_log` stores its log lines.
- `blocking`: the same verbs for code without an event loop. scripts/generate_blocking.py writes it from the classes
  above, on the base `blocking_calls`.
- `kind_scope`: what rights that are limited to kinds show and allow; `scoped_manager`: the verbs, limited by it.
- `system_jobs`: jobs that remove old instances, histories and logs.

`Instance` and `Schedule` call the manager through a Protocol, so that `manager` imports them and not the reverse.
"""
