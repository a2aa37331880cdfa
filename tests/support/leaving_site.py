"""A web application that never stops its node, for servers that fork. URL and NAMESPACE are in the environment."""

import os

from flask import Flask

import peerjob.node.node
from peerjob import Node
from support.leaving_program import GRACE, JOBS

peerjob.node.node.GRACE = GRACE
manager = Node(os.environ["URL"], jobs=JOBS, namespace=os.environ["NAMESPACE"], workers=2).blocking()
app = Flask(__name__)


@app.get("/")
def served() -> str:
    manager.start()
    return str(os.getpid())
