"""Calls the function of a job: checks and converts arguments, supplies resources, and runs the body.

Read in this order:

1. `binding`: the compiled signature of a job. It encodes arguments before a run is stored, and decodes them before it
   runs. `typed_positions` is one parameter or the result. `registry` holds the jobs of a node with their bindings.
2. `conversion`: from stored values to annotated types, by pydantic. `fields` lists the fields of a class.
   `stored_shapes` and `unions` find the member of a union; `dropped_parts` finds what the store would drop.
3. `injection`: the resources of `Depends`. `blocking` is the blocking manager of a sync job.
4. `executor`: runs a body on the event loop, in a thread (`threads`) or in a process (`processes`). `process_child` is
   the other end of a process, `frames` their messages, and `child_watcher` waits for the end of a process.
5. `errors`: errors of bodies. `context_vars`: the context variables that code of users starts with.

Other folders use this one; it uses none of them.
"""
