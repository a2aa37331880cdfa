"""Scripts that write and read limits."""
