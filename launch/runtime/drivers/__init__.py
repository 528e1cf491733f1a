"""The two loops that join an agent to environments: on the accelerator (device) and in worker processes (host)."""
