"""Version 1 of the wire format: messages and service of `job.v1.JobService`."""
