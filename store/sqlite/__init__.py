"""The SQLite driver of engine B (`store/kv`): one host, several processes, no server.

Read in this order:

1. `driver` implements `KeyValue` of `store/kv/format/base.py`, and opens the store; `address` reads the URL.
2. `registry` has the files of this process, each once; `thread` owns one file, and groups `requests` into transactions
   of SQLite.
3. `session` is what a thread has open: `file` (SQLite's connection; `location` checks where the file is), `write_lock`
   (which process may write), `bells` (wake other processes).
4. `transaction` compares and writes; `table` has the statements; `leases` end keys. `statement` is a transaction in one
   statement, which a thread without an event loop runs by itself.
5. `watch` reports keys that were put. `diagnosis` checks the file; `backup` copies it.
"""
