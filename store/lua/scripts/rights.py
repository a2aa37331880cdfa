"""The commands that a user of the server must be allowed to run, and the checks of them.

A script that lacks a right for one of its writes would stop half way, because Redis does not roll back. So a store
opens only if its user has all rights, and an administrator learns all missing ones at once. A right can also be taken
from a running node. So each script checks the rights for its writes before its first write.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from peerjob.model.errors import StoreCommandError, StorePermissionError

_CHECKED: Mapping[str, str] = {
    "KEY": (
        "decr exists get hgetall hlen hrandfield hvals incr llen mget pttl scard smembers spop srandmember unlink zcard"
    ),
    "KEY 1": "hdel hexists hget hmget hscan incrby lpush mset pexpire rpush sadd set srem zmscore zrem zscan zscore",
    "KEY 1 1": "getrange hset hsetnx lrange ltrim zadd zcount zrange zremrangebyrank zremrangebyscore",
    "KEY KEY": "rename",
    "1 KEY": "zintercard",
    "": "time",
    # the two commands that a client sends itself
    "0 1 KEY LEFT": "blmpop",
    "1 1 KEY": "evalsha",
    "1": "script|load",
}
"""Arguments → the commands that are checked with them; KEY stands for a key of the namespace."""
IN_HANDSHAKE = ("client|setname", "info", "ping", "select")
"""The commands of a client when it connects: without one of these rights, no check would run."""
RIGHTS = tuple(sorted([*IN_HANDSHAKE, *(name for names in _CHECKED.values() for name in names.split())]))
"""All commands that a node needs. `jobd clear` also needs `scan`."""


_WRITES = (
    "decr hdel hset hsetnx incr incrby lpush ltrim mset pexpire rename rpush sadd set spop srem unlink zadd zrem "
    "zremrangebyrank zremrangebyscore"
)
WRITES = frozenset(_WRITES.split())
"""The commands that change keys."""


def lua_check(names: Iterable[str]) -> str:
    """Lua code that ends a script if the user may not run these commands; "" for none. A check takes about 0.2 µs."""
    wanted = set(names)
    tests = [
        f"not redis.acl_check_cmd('{name}'{arguments}) and '{name}'"
        for words, of_words in _CHECKED.items()
        for arguments in ["".join(", KEYS[1]" if word == "KEY" else f", '{word}'" for word in words.split())]
        for name in of_words.split()
        if name in wanted
    ]
    if not tests:
        return ""
    text = """"NOPERM this user has no permissions to run the '" .. DENIED .. "' command\""""
    return f"local DENIED = {' or '.join(tests)}\nif DENIED then return redis.error_reply({text}) end"


def checked_commands(key: str) -> str:
    """The commands for `open.lua` to check, in JSON: the words of each."""
    return json.dumps(
        [
            [*name.split("|"), *(key if word == "KEY" else word for word in words.split())]
            for words, names in _CHECKED.items()
            for name in names.split()
        ]
    )


def check_rights(denied: Sequence[bytes], missing: Sequence[bytes], *, url: str, user: str, prefix: str) -> None:
    """Raise StoreCommandError or StorePermissionError if commands are missing or denied."""
    if missing:
        names = ", ".join(name.decode() for name in missing)
        raise StoreCommandError(f"the store at {url} lacks commands that peerjob needs: {names}")
    if denied:
        rights = " ".join(f"+{name.decode()}" for name in denied)
        raise StorePermissionError(f"user {user!r} of the store at {url} lacks rights on keys {prefix}*: {rights}")
