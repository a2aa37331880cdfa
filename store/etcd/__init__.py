"""The etcd driver of engine B (`store/kv`).

Read in this order:

1. `driver` implements `KeyValue` of `store/kv/format/base.py`, and opens the store.
2. `address` reads the URL. `client` sends a call to one member, and to the next member if that does not answer;
   `errors` converts the errors of gRPC; `api` is the only module that touches gRPC and the messages of etcd.
3. `transaction` builds requests of transactions and reads the replies; `wire` encodes their parts.
   `tests/support/etcd_model.py` says what etcd accepts in one transaction.
4. `watch` follows prefixes. `space` refuses new instances before etcd is full. `diagnosis` checks the health of the
   members.
"""
