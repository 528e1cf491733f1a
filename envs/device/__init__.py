"""Environments written in JAX: they live on the accelerator and are stepped inside jit, vmap and scan."""
