"""The scale grid: what each engine costs as kinds, nodes, queues, schedules, waiting clients and payloads grow."""
