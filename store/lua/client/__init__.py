"""Clients of a server: its address, connections, sentinels and clusters, through redis-py or valkey-glide."""
