"""A distributed job scheduler of equal peers, without a central server."""
