"""Schedules, their fires, and the ledger of nominal times."""
