"""`make bench-peers`: peerjob beside ten other job queues, on the same machine and with the same bodies."""
