"""A Django management command, run as `manage.py` runs it."""

import sys
from typing import Any

import django
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

import peerjob.node.node
from support.leaving_program import GRACE, make_node, use


class Command(BaseCommand):
    requires_system_checks = ()

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("words", nargs=4)

    def handle(self, *_: Any, **options: Any) -> None:
        url, namespace, kind, how = options["words"]
        use(make_node(url, namespace).blocking(), kind, "")
        if how == "error":
            raise CommandError("of the command")


if __name__ == "__main__":
    peerjob.node.node.GRACE = GRACE
    settings.configure()
    django.setup()
    Command().run_from_argv(["manage.py", "leaving", *sys.argv[1:]])
