"""The migrations of the tables of an outbox."""
