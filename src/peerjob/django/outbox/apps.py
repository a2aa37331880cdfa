"""The app of the tables."""

from __future__ import annotations

from django.apps import AppConfig


class OutboxConfig(AppConfig):
    """Brings the tables of an outbox by its migration. It has no models."""

    name = "peerjob.django.outbox"
    label = "peerjob_outbox"
    verbose_name = "peerjob outbox"
