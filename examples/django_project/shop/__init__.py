"""The project: settings, addresses, and the entry point of a server."""
