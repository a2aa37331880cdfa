"""The certificate of a server. For every new connection, changed files are read again."""

from __future__ import annotations

import logging
import threading
from typing import Any, cast

import grpc

from peerjob.model.errors import OptionError
from peerjob.remote.wire.tls import Pems, ServerTls

logger = logging.getLogger("peerjob.server")


class Certificates:
    """Gives gRPC the present files of a server. It must live as long as the server.

    If new files are invalid, the old certificate stays, and one log line says why. Raises OptionError if the first
    files are invalid.
    """

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._shown = tls.read()
        self._complaint = ""
        # gRPC calls _changed() in threads of gRPC, so two calls can overlap
        self._lock = threading.Lock()
        self.credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            _configuration(self._shown),
            cast(Any, self._changed),
            require_client_authentication=tls.client_ca is not None,
        )
        """The credentials of the gRPC server, which asks them for a changed certificate at each new connection."""

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The new configuration; None if nothing changed."""
        with self._lock:
            try:
                pems = self._tls.read(self._shown)
            except OptionError as error:
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    # without a traceback, since the error names the bad file
                    logger.error("the certificate stays as it was: %s", error)  # noqa: TRY400
                return None
            self._complaint = ""
            if pems == self._shown:
                return None
            self._shown = pems
        logger.info("the server uses a new certificate: that of %s", self._tls.name)
        return _configuration(pems)


def _configuration(pems: Pems) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pems.key, pems.certificate)], root_certificates=pems.client_ca)
