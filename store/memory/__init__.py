"""The memory driver of the key-value engine (`store/kv`), for tests and for one process."""
