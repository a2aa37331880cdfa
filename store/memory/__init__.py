"""The memory driver of engine B (`store/kv`): for tests, and for one process.

`driver` implements `KeyValue` of `store/kv/format/base.py` and opens the store. `data` holds the keys, leases and
watches. In tests, `data` also checks the limits of etcd and counts the cost of its reads.
"""
