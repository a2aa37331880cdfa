"""How a command writes: steps of an instance, requests of many steps, repeated answers, and hints."""
