"""A peer: its registry of jobs, its workers and their claim loop."""
