"""Asks the server of a store about its own health, for people who look after it."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.clock import Clock
from peerjob.model.findings import Finding

from .url import needs_etcd, scheme_of


async def diagnose(url: str, *, namespace: str, clock: Clock) -> Sequence[Finding]:
    """Ask the server of a store about itself; nothing for a store without one.

    Raises OptionError for a URL that is none, StoreError when the server does not answer or is too old.
    """
    scheme = scheme_of(url)
    if scheme.startswith("etcd"):
        with needs_etcd(url):
            from .etcd.diagnosis import diagnose_etcd

        return await diagnose_etcd(url, clock)
    if scheme != "memory":
        from .lua.diagnosis import diagnose_lua

        return await diagnose_lua(url, namespace)
    return ()
