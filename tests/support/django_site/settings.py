"""Settings for tests; each test sets the store, and SITE_STORE sets that of a process."""

import os

import django

DATABASES = {name: {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"} for name in ("default", "other")}
INSTALLED_APPS = [
    "support.django_site",
    "peerjob.django",
    "peerjob.django.outbox",
    *([] if django.VERSION >= (6, 0) else ["django_tasks"]),
]
USE_TZ = True
TASKS = {
    "default": {
        "BACKEND": "peerjob.django.TaskBackend",
        "QUEUES": ["default", "mail"],
        "OPTIONS": {"store": os.environ.get("SITE_STORE", "memory://")},
    }
}
