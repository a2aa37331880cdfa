"""Tasks: they run on the nodes of `manage.py peerjob`."""

import time

from orders.models import Order
from peerjob.django import with_options

try:
    from django.tasks import task
except ImportError:  # Django 5
    from django_tasks import task


@with_options(max_retries=3, backoff="1s", timeout="5m")
@task
def pack(number: int, seconds: float) -> str:
    """Pack an order. The task can run again, so it changes nothing that it has changed already."""
    order = Order.objects.get(pk=number)
    time.sleep(seconds)
    Order.objects.filter(pk=number, packed=False).update(packed=True)
    return f"packed {order.item}"
