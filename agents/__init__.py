"""Reinforcement-learning and evolution algorithms as pure functions."""
