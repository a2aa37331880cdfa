"""What a server shows to those who connect: read again when its files change, for every new connection."""

from __future__ import annotations

import logging
import threading
from typing import Any, cast

import grpc

from peerjob.model.errors import OptionError
from peerjob.remote.wire.tls import Pems, ServerTls

logger = logging.getLogger("peerjob.server")


class Certificates:
    """Keeps gRPC at what the files of a server hold. To be kept for as long as the server.

    What cannot be used is told once in the log, and what was shown before stays. Raises OptionError when it cannot be
    used from the beginning.
    """

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._shown = tls.read()
        self._complaint = ""
        self._lock = threading.Lock()  # gRPC asks in threads of its own
        self.credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            _configuration(self._shown),
            cast(Any, self._changed),
            require_client_authentication=tls.client_ca is not None,
        )
        """As gRPC takes them."""

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What to show from now on; None for the same as before."""
        with self._lock:
            try:
                found = self._tls.read(self._shown)
            except OptionError as error:
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    logger.error("the certificate stays as it was: %s", error)  # noqa: TRY400  # the text tells where
                return None
            self._complaint = ""
            if found == self._shown:
                return None
            self._shown = found
        logger.info("a new certificate is shown: that of %s", self._tls.name)
        return _configuration(found)


def _configuration(pems: Pems) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pems.key, pems.certificate)], root_certificates=pems.client_ca)
