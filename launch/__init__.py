"""Entry points: thin programs that parse flags and hand over to `launch.runtime`."""
