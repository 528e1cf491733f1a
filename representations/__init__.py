"""Learned state representations: datasets, encoders, losses, their training, metrics, and the names agents use."""
