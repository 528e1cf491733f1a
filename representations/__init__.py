"""State representation learning: datasets, models, training, metrics."""
