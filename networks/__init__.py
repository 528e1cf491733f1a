"""Neural networks (flax linen)."""
