"""Objects that users hold: instances, schedules, the manager, the context of a run, and their blocking twins."""
