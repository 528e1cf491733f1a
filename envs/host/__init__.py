"""Environments that run on the host, in worker processes: nothing here imports jax."""
