"""The commands that peerjob adds to `manage.py`."""
