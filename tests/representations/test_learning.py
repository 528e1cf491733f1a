"""What the losses teach: states that tell more of the truth than random features, on pictures of the twin."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from representations.encoder import encode_function
from representations.learner import Learner
from representations.metrics import ground_truth_correlation, knn_mse, nearest_neighbours, predict_reward
from tests.representations.test_objective import hyper_of, objective_of
from tests.representations.twin_data import twin_dataset

EPISODES, LENGTH, DIM = 20, 60, 4


def states_of(
    words: tuple[str, ...], epochs: int, rate: float = 0.002, dim: int = DIM
) -> tuple[np.ndarray, list[float]]:
    """States of all frames after a training with the convolutional network, and the training losses."""
    data = twin_dataset(EPISODES, LENGTH)
    objective = objective_of(*words, model_type="custom_cnn", state_dim=dim)
    hyper = jax.tree.map(lambda leaf: np.asarray(leaf)[None], hyper_of(objective, learning_rate=np.float32(rate)))
    learner = Learner(objective, data, [1], hyper, 32, 0.1)
    losses = [float(learner.epoch(number)["train_loss"][0]) for number in range(epochs)]
    encode = jax.jit(encode_function(objective.design.spec))
    return np.asarray(encode(learner.best(0).variables("encoder"), data.frames)), losses


@pytest.fixture(scope="module")
def random_states() -> np.ndarray:
    return states_of(("random",), 0)[0]


def neighbours_error(states: np.ndarray) -> float:
    """KNN-MSE on the robot's position in the arena."""
    neighbours = nearest_neighbours(states, np.arange(len(states)), 5)
    return knn_mse(neighbours, twin_dataset(EPISODES, LENGTH).ground_truth)


CASES = {
    "autoencoder": ("autoencoder",),
    "dae": ("dae",),
    "vae": ("vae:0.001",),
    "inverse": ("inverse",),
    "inverse and forward": ("inverse", "forward"),
    "priors": ("priors",),
    "combination": ("autoencoder", "reward", "inverse"),
    "splits": ("autoencoder:1:2", "reward:1:-1", "inverse:2:2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_models_beat_random_features(case, random_states):
    states, losses = states_of(CASES[case], 25)
    assert np.mean(losses[-5:]) < 0.9 * losses[0], losses
    assert neighbours_error(states) < neighbours_error(random_states)


@pytest.mark.slow
def test_the_reward_model_tells_rewards_better(random_states):
    data = twin_dataset(EPISODES, LENGTH)
    states, losses = states_of(("reward",), 25)
    assert losses[-1] < 0.7 * losses[0]
    told, guessed = (predict_reward(x, data.rewards, data.episode_starts) for x in (states, random_states))
    assert told.balanced_accuracy > guessed.balanced_accuracy


@pytest.mark.slow
def test_the_supervised_model_finds_the_truth(random_states):
    truth = twin_dataset(EPISODES, LENGTH).true_states()
    states, losses = states_of(("supervised",), 25, dim=2)
    assert losses[-1] < 0.2 * losses[0]
    found, random = (ground_truth_correlation(x, truth).mean() for x in (states, random_states))
    assert found > 0.95 > random
