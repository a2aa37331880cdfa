"""The wire format of package `job`."""
