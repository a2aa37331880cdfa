"""How a command writes: transactions of an instance, requests of many transactions, repeated answers, and hints."""
