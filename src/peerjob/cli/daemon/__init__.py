"""`jobd run` and `jobd check`: a node as a service.

`settings` is everything that can be set, from flags, the environment and a file; `modules` imports jobs, and imports
them again; `service` runs the node and what serves it, and minds signals; `logs` is what it says meanwhile; `tokens`
makes tokens. `doctor` looks at a configuration and its store, with `config_checks` and `cluster_checks`.

A failure before the node runs is one line and an exit status: 2 for what is configured wrong, 4 for a store that
cannot be reached, 5 for one that refuses us, 1 for anything else.
"""
