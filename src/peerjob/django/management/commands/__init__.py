"""`manage.py peerjob` runs a node with the tasks of the project."""
