"""A backend for Django's tasks framework, and the command `manage.py peerjob`, which runs the tasks.

Set `TASKS = {"default": {"BACKEND": "peerjob.django.TaskBackend"}}`, and add `"peerjob.django"` to INSTALLED_APPS.

It works with `django.tasks` of Django 6, and with the package django-tasks on Django 5.2.
"""

from peerjob.model.extras import needs_extra

with needs_extra("django", "peerjob.django"):
    from .backend import TaskBackend
    from .tasks import with_options

__all__ = ["TaskBackend", "with_options"]
