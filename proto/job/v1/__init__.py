"""The messages of `job.v1.JobService`, generated from service.proto by `make proto`."""
