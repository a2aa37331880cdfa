"""Definitions of scripts: a script contains those that it names."""
