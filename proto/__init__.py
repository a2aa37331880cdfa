"""The wire format spoken between clients and nodes."""
