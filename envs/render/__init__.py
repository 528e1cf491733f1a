"""Renderers written in JAX: the pictures of the device environments."""
