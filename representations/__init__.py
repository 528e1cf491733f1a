"""Learned state representations: encoders, losses, their training, and the names under which agents use them."""
