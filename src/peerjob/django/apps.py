"""The app `peerjob.django`, for INSTALLED_APPS."""

from __future__ import annotations

from django.apps import AppConfig


class PeerjobConfig(AppConfig):
    """Brings `manage.py peerjob`. It has no models."""

    name = "peerjob.django"
    label = "peerjob"
    verbose_name = "peerjob"
