"""The gRPC package `job`."""
