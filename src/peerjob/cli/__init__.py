"""The commands `jobd` and `jobctl`.

`jobd.py` and `jobctl.py` define the commands. `daemon` has the parts of `jobd`, `ctl` the verbs of `jobctl`, and `demo`
is `jobd demo`. `settings` is the mechanism of all options, `console` prints errors and sets exit statuses, `printable`
escapes text for a terminal, and `event_loop` chooses the event loop. `silent_grpc` is imported before gRPC.
"""
