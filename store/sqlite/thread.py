"""The thread that owns a file: it answers the requests that came together with one transaction of SQLite.

Reads need no write lock, so they are answered first, and also while the thread waits for the write lock.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import select
import socket
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from pathlib import Path

from peerjob.model.clock import Clock
from peerjob.model.errors import PeerjobError, StoreError, StoreUnavailableError
from peerjob.store.kv.format.base import Applied, Compare, Transaction

from .errors import translated
from .requests import Request, deliver, fail
from .session import Session
from .watch import SqliteWatch
from .write_lock import described

_LOGGER = logging.getLogger("peerjob.store")
_TICK = 1.0
_MOST = 32
"""Most requests in one transaction of SQLite, so that peers wait for some milliseconds only."""
_FIRST_PAUSE, _MAX_PAUSE = 0.0001, 0.002
"""Seconds between two looks whether the write lock is free."""
_IDLE_PAUSE = 0.01
_ALONE = 16
"""After a call that was not alone, the thread takes this number of calls: it commits together what comes together."""
_PATIENCE = 0.05
"""Seconds for which the thread waits for a calling thread that writes. A signal handler that interrupted such a thread
can wait for a request here; SQLite's own lock then keeps the two apart."""


class FileThread:
    """The thread of one file in this process. It opens the file for its first request."""

    def __init__(self, path: Path, url: str, clock: Clock, previous: FileThread | None) -> None:
        self.users = 0
        """How many drivers use the file; the registry counts them."""
        self.identity = ""
        self.full = False
        """Whether new instances must be refused, to leave space for the end of those that exist."""
        self.is_inherited = False
        """Whether this is a child's copy of the parent's thread, which does not run."""
        self._path = path
        self._url = url
        self._clock = clock
        self._previous = previous
        self._session: Session | None = None
        self._reads: deque[Request] = deque()
        self._writes: deque[Request] = deque()
        self._ends: list[Request] = []
        self._watches: tuple[SqliteWatch, ...] = ()
        self._watches_lock = threading.Lock()
        self._must_register = self._is_asleep = self._has_rung = False
        self._parks = itertools.count(1)
        self._must_park = self._parked = 0
        """The number of the call to park, 0 without one; and the last number for which the thread has parked."""
        self._forking_thread = 0
        """The thread that parks this one. It has no lock then that this one waits for: see `unparked`."""
        self._patience = _PATIENCE
        self._writing = threading.RLock()
        """Held by the thread that writes: this one, or a calling thread, or one that forks."""
        self._writing_thread = 0
        """The calling thread that writes."""
        self._calls_alone = 0
        """Calls of `write_here` since one that was not alone."""
        self._next_tick = 0.0
        self._next_end = self._next_registration = 0.0
        """The monotonic times before which the thread does not try again to end leases, and to write its watches."""
        self._alarm, self._wake_up = socket.socketpair()
        self._alarm.setblocking(False)
        self._wake_up.setblocking(False)
        self._alarm_fd = self._alarm.fileno()
        self._poll = select.poll()
        self._poll.register(self._alarm, select.POLLIN)
        self._thread = threading.Thread(target=self._main, name=f"peerjob {path.name}", daemon=True)
        self._thread.start()

    # -- for other threads ----------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Let the thread do the work of a request."""
        (self._writes if request.writes else self._reads).append(request)
        self._wake()

    def write_here(
        self, transactions: Sequence[Transaction], also: Transaction | None, guards: Sequence[Compare], *, synced: bool
    ) -> Applied | None:
        """`KeyValue.txn` in the calling thread while the thread of the file sleeps; None if nothing was written."""
        session, caller = self._session, threading.get_ident()
        if session is not None and self._writing_thread == caller:
            # a signal handler has interrupted this thread, between two calls of SQLite
            return session.write_directly(transactions, also, guards, synced=synced)
        self._calls_alone = 0 if self._writes or self._writing_thread else self._calls_alone + 1
        if session is None or self._calls_alone <= _ALONE or not self._is_asleep or self._must_register:
            return None
        # only `with` gives the lock back in all cases: a signal can come between any two calls
        with self._writing:
            self._writing_thread = caller
            try:
                return session.write_directly(transactions, also, guards, synced=synced)
            finally:
                self._writing_thread = 0

    def end(self, request: Request) -> None:
        """Let the thread end after all other requests, and then answer this one."""
        self._ends.append(request)
        self._wake(always=True)

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def watch(self, prefixes: tuple[str, ...]) -> SqliteWatch:
        """Watch keys with one of these prefixes, from now on."""
        seen = 0 if self._session is None else self._session.revision
        watch = SqliteWatch(prefixes, seen, self._remove_watch)
        with self._watches_lock:
            self._set_watches((*self._watches, watch))
        return watch

    def park(self) -> None:
        """Leave the file alone until `resume`, so that this process can fork."""
        self._stop_for_fork()
        # a signal handler that forks can have interrupted a write of its own thread, between two calls of SQLite
        self._writing.acquire()

    def resume(self) -> None:
        """Go on after `park`."""
        with contextlib.suppress(RuntimeError):  # Ctrl-C has ended `park`
            self._writing.release()
        self._go_on()

    @contextlib.contextmanager
    def unparked(self) -> Generator[None]:
        """Let the thread work for a signal handler that has interrupted a fork of its own thread."""
        if self._forking_thread != threading.get_ident():
            yield
            return
        self._patience = 0.0
        self._go_on()
        try:
            yield
        finally:
            self._stop_for_fork()
            self._patience = _PATIENCE

    def _stop_for_fork(self) -> None:
        self._forking_thread = threading.get_ident()
        self._must_park = next(self._parks)
        while self._thread.is_alive() and self._parked != self._must_park:
            self._wake(always=True)
            time.sleep(_FIRST_PAUSE)

    def _go_on(self) -> None:
        self._forking_thread = self._must_park = 0
        self._wake(always=True)

    def abandon(self) -> None:
        """Close what a child has inherited; the parent goes on with it."""
        self.is_inherited = True
        session, self._session = self._session, None
        if session is not None:
            session.abandon()

    def _remove_watch(self, watch: SqliteWatch) -> None:
        with self._watches_lock:
            self._set_watches(tuple(other for other in self._watches if other is not watch))

    def _set_watches(self, watches: tuple[SqliteWatch, ...]) -> None:
        self._watches = watches
        self._must_register = True
        self._wake()

    def _wake(self, *, always: bool = False) -> None:
        if self._is_asleep or always:
            self._is_asleep = False
            # a full buffer already wakes the thread
            with contextlib.suppress(OSError):
                self._wake_up.send(b"\0")

    # -- the thread -----------------------------------------------------------------------------------------------

    def _main(self) -> None:
        if self._previous is not None:
            self._previous.join()
            self._previous = None
        while self._reads or self._writes or not self._ends:
            if self._must_park:
                self._park()
            self._sleep()
            session = self._opened()
            if session is None:
                continue
            try:
                self._serve(session)
            except Exception as error:
                _LOGGER.exception("the thread of %s failed; it goes on with the next calls", self._url)
                self._fail_all(StoreUnavailableError(self._url, str(error)))
        if self._session is not None:
            with self._writing:
                self._session.close()
        self._alarm.close()
        self._wake_up.close()
        deliver(self._ends)

    def _opened(self) -> Session | None:
        """The open file; if it cannot be opened, all requests fail."""
        if self._session is None and (self._reads or self._writes):
            try:
                self._session = Session(self._path, self._url, self._clock)
            except PeerjobError as error:
                self._fail_all(error)
            except (sqlite3.Error, OSError) as error:
                self._fail_all(
                    translated(error, self._url)
                    if isinstance(error, sqlite3.Error)
                    else StoreError(f"cannot open the store at {self._url}: {error.strerror}")
                )
            else:
                self.identity = self._session.identity
                if self._session.socket is not None:
                    self._poll.register(self._session.socket, select.POLLIN)
                self._must_register = bool(self._watches)
        return self._session

    def _park(self) -> None:
        alarm = select.poll()
        alarm.register(self._alarm, select.POLLIN)
        while number := self._must_park:
            self._parked, self._is_asleep = number, True
            if alarm.poll(_TICK * 1000):
                self._alarm.recv(4096)
        self._is_asleep = False

    def _sleep(self) -> None:
        """Wait for a request, a message of a peer, the end of a lease, or the next second."""
        self._is_asleep = True
        session = self._session
        wait = _TICK
        if self._reads or self._writes or self._ends or self._must_park:
            wait = 0.0
        elif session is not None:
            now = time.monotonic()
            lease_ends = max((session.first_end_us - session.now_us()) / 1e6, self._next_end - now)
            wait = max(0.0, min(self._next_tick - now, lease_ends))
        for fd, _ in self._poll.poll(wait * 1000):
            if fd == self._alarm_fd:
                self._alarm.recv(4096)
            elif session is not None:
                self._has_rung = session.heard()
        self._is_asleep = False

    def _serve(self, session: Session) -> None:
        try:
            if self._has_rung:
                self._has_rung = False
                session.look(self._watches)
            if time.monotonic() >= self._next_tick:
                self._next_tick = time.monotonic() + _TICK
                session.tick(self._watches)
        except (sqlite3.Error, OSError) as error:
            _LOGGER.warning("cannot look for changes at %s: %s", self._url, error)
        if self._must_register and time.monotonic() >= self._next_registration:
            # what is put from now on must ring, before a read tells what was put until now
            self._write(session)
        self._answer(session)
        if self._writes or (session.now_us() >= session.first_end_us and time.monotonic() >= self._next_end):
            self._write(session)
        self.full = session.full

    def _answer(self, session: Session) -> None:
        """Answer the reads that wait."""
        reads = _taken(self._reads)
        if not reads:
            return
        try:
            session.read(reads)
        except sqlite3.Error as error:
            fail(reads, translated(error, self._url))
        except Exception as error:  # noqa: BLE001  # a defect of one request must not end the thread
            fail(reads, error)
        else:
            deliver(reads)

    def _write(self, session: Session) -> None:
        """Apply the writes that wait, as far as this process gets the write lock."""
        has_lock = self._writing.acquire(timeout=self._patience)
        try:
            self._write_waiting(session)
        finally:
            if has_lock:
                self._writing.release()

    def _write_waiting(self, session: Session) -> None:
        if not self._take_write_lock(session):
            return
        writes = _taken(self._writes)
        try:
            self._register(session)
            failed = self._commit(session, writes)
            if failed is not None:
                # a removed file or a full disk stays for some time
                self._next_end = time.monotonic() + _TICK
            if failed is not None and len(writes) > 1:
                # each request alone, so that the fault of one does not fail the others
                for request in writes:
                    request.error = None
                    request.error = self._commit(session, [request]) or request.error
            elif failed is not None:
                for request in writes:
                    request.error = failed
        finally:
            session.lock.give()
        deliver(writes)
        if not self._writes:
            session.checkpoint()

    def _register(self, session: Session) -> None:
        """Write the watches of this process if they have changed; needs the write lock."""
        if not self._must_register or time.monotonic() < self._next_registration:
            return
        self._must_register = False
        try:
            session.register(self._watches)
        except sqlite3.Error as error:
            # until then, the look of each second finds what others have put
            _LOGGER.warning(
                "cannot write which keys this process watches, and tries again: %s", translated(error, self._url)
            )
            self._must_register, self._next_registration = True, time.monotonic() + _TICK

    def _commit(self, session: Session, writes: Sequence[Request]) -> Exception | None:
        """Apply writes; the error if none of them was applied."""
        try:
            session.write(writes, self._watches)
        except sqlite3.Error as error:
            return translated(error, self._url)
        except Exception as error:  # noqa: BLE001  # a defect of one request must not end the thread
            return error
        return None

    def _take_write_lock(self, session: Session) -> bool:
        """Wait for the write lock; False if nothing is left that needs it, or if the thread must park."""
        pause = _FIRST_PAUSE
        while not session.lock.take():
            now = time.monotonic()
            if late := [request for request in self._writes if request.until < now]:
                for request in late:
                    self._writes.remove(request)
                fail(late, StoreUnavailableError(self._url, described(session.lock.holder())))
            if self._must_park:
                return False
            if not self._writes:
                # only the end of a lease, or watches that are not noted yet, which can wait
                time.sleep(_IDLE_PAUSE)
                return False
            time.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE)
            self._answer(session)
        return True

    def _fail_all(self, error: PeerjobError) -> None:
        requests = [*self._reads, *self._writes]
        self._reads.clear()
        self._writes.clear()
        fail(requests, error)


def _taken(queue: deque[Request]) -> list[Request]:
    """The first requests of a queue, without those that their callers gave up."""
    taken: list[Request] = []
    while queue and len(taken) < _MOST:
        request = queue.popleft()
        if not request.answer.cancelled():
            taken.append(request)
    return taken
