"""The clients that people use, against the running service: `make test-clients`. No test of `make test`."""
