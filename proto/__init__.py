"""The messages between clients and nodes: `job.v1` is the service, and `externalscaler` is that of KEDA."""
