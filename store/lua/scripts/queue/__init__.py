"""Scripts that add, cancel and read instances."""
