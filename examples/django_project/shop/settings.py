"""The settings. The environment chooses the database and the store."""

import os
from pathlib import Path

import django

BASE_DIR = Path(os.environ.get("SHOP_DATA", Path(__file__).parents[1]))

# of this example only: a real project has a secret key, and no DEBUG
SECRET_KEY = "of an example"
DEBUG = os.environ.get("SHOP_DEBUG") == "1"
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = ["orders", "peerjob.django"]
if django.VERSION < (6, 0):
    INSTALLED_APPS.append("django_tasks")

# tasks and their results are in a store of peerjob: by default, in the file peerjob.db of BASE_DIR
TASKS = {"default": {"BACKEND": "peerjob.django.TaskBackend"}}
if "SHOP_STORE" in os.environ:
    TASKS["default"]["OPTIONS"] = {"store": os.environ["SHOP_STORE"]}

# with an outbox, a task and its order are one transaction of the database
if os.environ.get("SHOP_OUTBOX") == "1":
    INSTALLED_APPS.append("peerjob.django.outbox")
    TASKS["default"].setdefault("OPTIONS", {})["outbox"] = True

if "SHOP_POSTGRES" in os.environ:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": os.environ["SHOP_POSTGRES"],
            "NAME": "postgres",
            "USER": "postgres",
            # connections of a node, too, live on from task to task
            "CONN_MAX_AGE": 60,
            "CONN_HEALTH_CHECKS": True,
        }
    }
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": BASE_DIR / "shop.db",
            # the web server and the nodes write to one file, so a writer waits for the others
            "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
        }
    }
