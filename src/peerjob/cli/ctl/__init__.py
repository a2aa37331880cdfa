"""`jobctl`: manages a cluster from outside, through any node that serves gRPC.

Every verb is a coroutine that takes a `Session` (where to connect, how to show) and its own arguments; `verb` makes a
command of it and adds the options that all verbs share. These may stand before the verb or after it; the latter win.

Results go to standard output, everything else to standard error. A table is fitted to the terminal, and never cut where
the output is no terminal. What nodes tell is shown without control characters, which could command a terminal.

Exit statuses:

0    done
1    failed: an instance that was waited for did not complete, or something could not be done
2    wrong usage: an option, an argument, or a setting
3    not found: no such instance, schedule or job
4    unreachable: no node answers, or its store does not
5    refused: no token, a wrong one, or one without this right
6    the time was over
130  interrupted
"""
