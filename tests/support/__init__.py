"""Helpers of the tests: real servers and real child processes."""
