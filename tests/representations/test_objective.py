"""The total loss against NumPy, what splits see, and the learning of every loss on real pictures."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from representations.encoder import EncoderSpec
from representations.learner import Learner
from representations.loss_flags import family_of, parse_losses
from representations.objective import Batch, Design, Hyper, Objective
from tests.representations.twin_data import twin_dataset

SIZE, DIM = 24, 6
HYPER = Hyper(*(np.float32(x) for x in (0.001, 0, 1, 0.5, 0, 0)))


def objective_of(*words: str, model_type: str = "linear", views: int = 1, state_dim: int = DIM, **options) -> Objective:
    terms = parse_losses(words, state_dim)
    names = tuple(term.name for term in terms)
    spec = EncoderSpec("", SIZE, 3 * views, state_dim, model_type, family_of(names), names, num_actions=4)
    return Objective(Design(spec, terms, truth_dim=2, **options), 4)


def hyper_of(objective: Objective, **changes) -> Hyper:
    weights = np.array([term.weight for term in objective.design.terms], np.float32)
    return HYPER._replace(weights=weights, **changes)


def batch_of(count: int = 12, fpv: bool = False) -> Batch:
    data = twin_dataset(fpv=fpv)
    rows = np.flatnonzero(~data.episode_starts[1:])[np.random.default_rng(0).permutation(200)[:count]]
    truth = np.stack([data.true_states()[rows], data.true_states()[rows + 1]])
    facts = (data.actions[rows], data.rewards[rows], data.episodes[rows].astype(np.int32))
    negative = data.frames[(rows + 7) % 60]
    return Batch(*(jnp.asarray(x) for x in (data.frames[rows], data.frames[rows + 1], negative, *facts, truth)))


def evaluate(objective: Objective, batch: Batch, hyper: Hyper, train: bool = False):
    weights = jax.jit(objective.init)(jax.random.key(0))

    def total(params):
        return objective.loss(weights._replace(params=params), batch, hyper, jax.random.key(1), train)

    (value, (_, metrics)), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(weights.params)
    return jax.tree.map(np.asarray, weights), float(value), {k: float(v) for k, v in metrics.items()}, gradient


def layer(x, params):
    return x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]


def pictures(frames) -> np.ndarray:
    x = (np.asarray(frames, np.float64) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return x.reshape(len(x), -1)


def softmax_loss(logits, labels) -> float:
    return float(np.mean([np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, labels, strict=True)]))


def test_the_total_of_splits_is_that_of_numpy():
    """autoencoder and reward see the first four components, inverse the last two; all share one linear encoder."""
    objective = objective_of("autoencoder:2:4", "reward:3:-1", "inverse:5:2")
    batch = batch_of()
    weights, total, metrics, _ = evaluate(objective, batch, hyper_of(objective))
    params = weights.params
    now, later = (layer(pictures(x), params["encoder"]["Linear_0"]) for x in (batch.obs, batch.next_obs))
    first, last = np.r_[1, 1, 1, 1, 0, 0], np.r_[0, 0, 0, 0, 1, 1]
    reconstruction = sum(
        np.mean((layer(state * first, params["decoder"]["Linear_0"]) - pictures(frames)) ** 2)
        for state, frames in ((now, batch.obs), (later, batch.next_obs))
    )
    x = np.concatenate([now * first, later * first], axis=1)
    for number in range(2):
        x = np.maximum(layer(x, params["reward"][f"Linear_{number}"]), 0)
    reward = softmax_loss(layer(x, params["reward"]["Linear_2"]), np.asarray(batch.reward > 0, int))
    logits = layer(np.concatenate([now * last, later * last], axis=1), params["inverse"]["Linear_0"])
    inverse = softmax_loss(logits, batch.action)
    expected = {"reconstruction_loss": reconstruction, "reward_loss": reward, "inverse_loss": inverse}
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-4)
    np.testing.assert_allclose(total, 2 * reconstruction + 3 * reward + 5 * inverse, rtol=2e-4)


def test_a_loss_shapes_its_own_part_of_the_state_only():
    for word, mine in (("forward", slice(2, 6)), ("priors", slice(2, 6)), ("dae", slice(2, 6)), ("vae", slice(2, 6))):
        objective = objective_of("inverse:0:2", f"{word}:1:4", model_type="mlp" if word == "vae" else "linear")
        gradient = evaluate(objective, batch_of(), hyper_of(objective), train=True)[3]["encoder"]
        kernel = np.asarray(gradient[max(gradient)]["Dense_0"]["kernel"])[:, :DIM]  # of the last layer
        assert np.abs(kernel[:, mine]).max() > 0 and not np.abs(kernel[:, :2]).any(), word


def test_regularisation_is_of_weights_without_biases():
    objective = objective_of("inverse")
    plain = evaluate(objective, batch_of(), hyper_of(objective))
    regular = evaluate(objective, batch_of(), hyper_of(objective, l1=np.float32(0.1), l2=np.float32(10.0)))
    kernels = [plain[0].params[name]["Linear_0"]["Dense_0"]["kernel"] for name in ("encoder", "inverse")]
    l1, l2 = sum(np.abs(k).sum() for k in kernels), np.mean([np.linalg.norm(k) for k in kernels])
    np.testing.assert_allclose(regular[1] - plain[1], 0.1 * l1 + 10 * l2, rtol=1e-4)


def test_a_vae_adds_noise_while_it_learns_and_none_when_it_is_judged():
    objective = objective_of("vae", model_type="mlp")
    _, _, judged, _ = evaluate(objective, batch_of(), hyper_of(objective))
    _, total, learning, _ = evaluate(objective, batch_of(), hyper_of(objective, beta=np.float32(3)), train=True)
    assert learning["kl_loss"] == pytest.approx(judged["kl_loss"], rel=1e-4)
    assert learning["generation_loss"] > judged["generation_loss"]
    assert total == pytest.approx(0.5e-6 * learning["generation_loss"] + 3 * learning["kl_loss"], rel=1e-5)


LEARNED = {
    "autoencoder": {},
    "dae": {},
    "vae": {"model_type": "mlp"},
    "forward": {},
    "inverse": {},
    "reward": {},
    "priors": {},
    "reward-prior": {},
    "triplet": {},
    "supervised": {"state_dim": 2},
}
CONVOLUTIONAL = pytest.param("inverse", {"model_type": "custom_cnn"}, marks=pytest.mark.slow)


@pytest.mark.parametrize(("name", "options"), [*LEARNED.items(), CONVOLUTIONAL])
def test_every_loss_falls_on_pictures_of_the_twin(name, options):
    objective = objective_of(name, **options)
    hyper = jax.tree.map(lambda leaf: np.asarray(leaf)[None], hyper_of(objective, learning_rate=np.float32(0.002)))
    learner = Learner(objective, twin_dataset(fpv=name == "triplet"), [3], hyper, 16, 0.2)
    told: list[tuple[int, int]] = []
    results = [learner.epoch(number, lambda *progress: told.append(progress)) for number in range(8)]
    total = told[-1][1]
    assert [done for done, _ in told] == 8 * list(range(1, total + 1)) and {all for _, all in told} == {total}
    train = [float(result["train_loss"][0]) for result in results]
    assert np.isfinite(train).all() and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(learner.states))
    assert np.mean(train[-3:]) < 0.97 * train[0], train
    assert learner.best_loss[0] == min(float(result["val_loss"][0]) for result in results)


def test_the_episode_prior_plays_against_its_discriminator():
    """The discriminator descends, the encoder ascends: both by the same loss, with opposite signs."""
    objective = objective_of("episode-prior", balanced=True)
    batch, hyper = batch_of(), hyper_of(objective)
    weights, before, _, gradient = evaluate(objective, batch, hyper)
    after, key = {}, jax.random.key(1)
    total = jax.jit(lambda weights: objective.loss(weights, batch, hyper, key, False)[0])
    for name in ("encoder", "episode-prior"):
        params = dict(weights.params)
        params[name] = jax.tree.map(lambda p, g: p - 1e-5 * g, params[name], gradient[name])
        after[name] = float(total(weights._replace(params=params)))
    assert after["episode-prior"] < before < after["encoder"]


def test_runs_together_are_runs_apart():
    objective = objective_of("autoencoder", "inverse", "reward")
    data = twin_dataset()
    hyper = Hyper(*(np.float32([a, b]) for a, b in ((1e-3, 3e-3), (0, 0), (1, 1), (0.5, 0.5), (0, 0), (0, 1e-4))))
    hyper = hyper._replace(weights=np.float32([[1, 2, 1], [0.5, 0, 3]]))
    found = []
    for together, resident in ((True, True), (False, False), (False, True)):
        learner = Learner(objective, data, [5, 9], hyper, 32, 0.2, together, resident)
        found.append(([learner.epoch(number) for number in range(2)], [learner.best(run) for run in range(2)]))
    for results, best in found[1:]:
        for ours, theirs in zip(results, found[0][0], strict=True):
            for name in ours:
                np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.02, atol=2e-3), best, found[0][1])
    jax.tree.map(np.testing.assert_array_equal, found[1][1], found[2][1])


def test_many_minibatches_in_one_call_are_as_many_calls(monkeypatch):
    objective = objective_of("inverse", "dae")
    hyper = jax.tree.map(lambda leaf: np.asarray(leaf)[None], hyper_of(objective))
    losses = []
    for several in (False, True):
        learner = Learner(objective, twin_dataset(), [1], hyper, 32, 0.2, resident=several)
        monkeypatch.setattr(learner, "_scanned", 4 if several else 1)
        losses.append([learner.epoch(number)["val_loss"] for number in range(2)])
    np.testing.assert_allclose(*losses, rtol=1e-3)
