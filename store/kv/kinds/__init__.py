"""Descriptors and groups of kinds, and the removal of kinds that nothing uses."""
