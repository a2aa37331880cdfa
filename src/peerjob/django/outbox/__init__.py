"""The app `peerjob.django.outbox`, for INSTALLED_APPS: its migration makes the tables of an outbox."""
