"""Renderers of the environments' pictures, in JAX; what the host draws with as well is in NumPy alone."""
