"""The etcd driver of the key-value engine (`store/kv`)."""
