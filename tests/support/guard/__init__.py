"""Counts what the paths of a job cost, and compares the counts with the expected ones."""
