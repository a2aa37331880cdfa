"""The daemon: a node of job modules as a service, and how it reloads them."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

from peerjob import Node, OptionError, PeerjobError, SystemClock
from peerjob.cli import event_loop

from .config_checks import exposed_files
from .logs import configure
from .modules import JobModules
from .open_files import connections_within, raise_limit
from .service import Service
from .settings import DEFAULT_STORE, DaemonSettings
from .tokens import TokensFile

logger = logging.getLogger("peerjob.daemon")


def run(settings: DaemonSettings) -> int:
    """Run a daemon until a signal stops it; the exit status. Raises PeerjobError if it cannot run."""
    sys.path.insert(0, str(settings.app_dir.resolve()))
    limit = raise_limit()
    settings = replace(settings, max_connections=connections_within(limit, settings.max_connections))
    daemon = Daemon(settings)
    configure(settings.log_format, settings.log_level.value, daemon.node.name)
    if settings.store == DEFAULT_STORE:
        logger.info("no other --store is given: the file %s keeps the jobs", Path("peerjob.db").absolute())
    return event_loop.run(daemon.run())


class Daemon:
    """A node as a process of its own. Raises OptionError for invalid settings."""

    def __init__(self, settings: DaemonSettings) -> None:
        if not settings.jobs and settings.workers:
            raise OptionError("MODULE", "none", "a module with jobs, such as app.jobs, or --workers 0")
        self._settings = settings
        self._modules = JobModules(settings.jobs)
        self.node: Node = settings.node(self._modules.load(), SystemClock())
        self._tokens = None if settings.tokens_file is None else TokensFile(settings.tokens_file)
        self._server = settings.server(self.node, self._tokens)
        self._web = settings.web(self.node, self._tokens)
        servers = (self._server, settings.scaler(self.node), self._web)
        self._service = Service(
            self.node,
            grace=settings.grace_seconds,
            reload=self._reload,
            metrics=settings.metrics(self.node),
            servers=[server for server in servers if server is not None],
        )

    async def run(self) -> int:
        """Run until a signal stops the service; its exit status.

        SIGHUP reloads the job modules and the tokens.
        """
        for text in exposed_files(self._settings):
            logger.warning("%s", text)
        return await self._service.run()

    def _reload(self) -> None:
        # modules and tokens are reloaded separately, so that a bad module does not keep a withdrawn token valid
        try:
            self._modules.reload(self.node)
        except PeerjobError as error:
            # without a traceback, since the error names the bad line
            logger.error("the job modules stay as they were: %s", error)  # noqa: TRY400
        if self._web is not None:
            self._web.reload()
        if self._tokens is None:
            return
        try:
            self._tokens.reload()
        except PeerjobError as error:
            # without a traceback, since the error names the bad line
            logger.error("the tokens stay as they were: %s", error)  # noqa: TRY400
        else:
            logger.info("reloaded the tokens: %d", len(self._tokens))
