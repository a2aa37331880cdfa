"""Place orders, and look at them."""

from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from orders.models import Order
from orders.tasks import pack

try:
    from django.tasks.exceptions import TaskResultDoesNotExist
except ImportError:  # Django 5
    from django_tasks.exceptions import TaskResultDoesNotExist


@csrf_exempt
@transaction.atomic
def place(request: HttpRequest) -> HttpResponse:
    """Save an order, and enqueue its task: both or, after an error, none of them."""
    order = Order.objects.create(item=request.POST["item"])
    # the id is known at once, and can be saved in the same transaction
    order.task_id = pack.enqueue(order.pk, float(request.POST.get("seconds", 0))).id
    order.save()
    if request.POST.get("valid") == "no":
        raise ValueError("this order cannot be placed")
    return JsonResponse({"number": order.pk, "task": order.task_id}, status=201)


def show(request: HttpRequest, number: int) -> HttpResponse:
    """Show an order."""
    order = Order.objects.filter(pk=number).first()
    if order is None:
        return JsonResponse({"error": f"no order {number}"}, status=404)
    return JsonResponse({"item": order.item, "packed": order.packed, "task": order.task_id})


def result(request: HttpRequest, id: str) -> HttpResponse:
    """Show what became of a task."""
    try:
        found = pack.get_result(id)
    except TaskResultDoesNotExist:
        return JsonResponse({"error": f"no task {id}"}, status=404)
    value = found.return_value if found.status == "SUCCESSFUL" else None
    errors = [error.traceback for error in found.errors]
    return JsonResponse({"status": found.status, "value": value, "errors": errors, "workers": found.worker_ids})
