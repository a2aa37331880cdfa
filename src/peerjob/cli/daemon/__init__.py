"""The parts of `jobd`: a node as a service.

Read `settings` (the table of options), then `daemon` (the node of the settings) and `service` (a node, its servers and
its signals), which `manage.py peerjob` uses too. `modules` imports jobs, and imports them again on SIGHUP. `logs`
formats log lines, and `tokens` creates and reads tokens. `check` is `jobd check`, with `config_checks` and
`cluster_checks`; `drain` and `clear` are the commands of these names.

An error before the node runs is one line and an exit status (`errors`): 2 for an invalid configuration, 4 if the store
cannot be reached, 5 if the store refuses the credentials, 1 for any other error.
"""
