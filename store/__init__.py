"""The shared truth: one contract, and its engines for Redis, Valkey and memory."""
