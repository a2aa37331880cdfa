"""The tables of the app."""

from django.db import models


class Order(models.Model):
    """An order, and the task that packs it."""

    item = models.CharField(max_length=50)
    packed = models.BooleanField(default=False)
    task_id = models.CharField(max_length=36)
