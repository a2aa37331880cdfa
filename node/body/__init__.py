"""Calls a job's function: checks and converts arguments, supplies resources, and runs it."""
