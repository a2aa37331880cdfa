"""The verbs of a node: what `Manager` declares, over the store.

Read in this order:

1. `jobs`: what all verbs need (the store, the registry, and the runtime of a node that runs), and the verbs that store
   new instances. Then the verbs for `retries`, `instances` and `schedules`; `Node` inherits them.
2. `call_encoder`: from a call to the stored instance. `schedule_changes`: from a definition to the stored schedule.
   `backfill`: instances for past nominal times.
3. What the runtime holds for the verbs: `batches` sends concurrent requests to the store together;
   `kind_catalogue` knows the kinds of the namespace; `waiters` and `watchers` read changes for waiters and streams;
   `job_schedules` writes the schedules that code defines; `log_lines` writes lines of instances that run elsewhere.
4. `blocking`: the same verbs for code without an event loop. `loop_pauses` divides long work on the loop.
"""
