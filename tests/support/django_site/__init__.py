"""A Django project of one app, with tasks for tests. Its settings are `support.django_site.settings`."""
