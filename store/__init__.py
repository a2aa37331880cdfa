"""The shared truth: the contract (`base`), and its two engines (`kv`, `lua`)."""
