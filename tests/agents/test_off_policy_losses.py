"""Losses and targets of the off-policy algorithms against references that go through one transition at a time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
import scipy.stats

from agents import ddpg, deepq, sac
from agents.common.distributions import TanhGaussian
from agents.common.off_policy import ActionBounds, gradient_steps, iterations_of, track
from agents.common.replay import Minibatch
from agents.types import Clock, Transition
from envs.types import Box, Discrete, Spec
from networks.values import Critics, DeterministicActor, Encoder, QNetwork, SquashedGaussianActor

BATCH = 6
KEY = jax.random.key(3)


def shaken(params: Any, seed: int) -> Any:
    """Parameters far from their small start."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.asarray(x) + 0.5 * rng.normal(size=x.shape).astype(np.float32), params)


def minibatch(action: np.ndarray) -> Minibatch:
    rng = np.random.default_rng(0)
    obs, next_obs = rng.normal(size=(2, BATCH, 3)).astype(np.float32)
    reward = rng.normal(size=BATCH).astype(np.float32)
    discount = np.array([0.9, 0.0, 0.81, 0.9, 0.9, 0.0], np.float32)
    weight = np.array([1, 1, 0, 1, 1, 1], np.float32)
    return Minibatch(*map(jnp.asarray, (obs, action, reward, discount, next_obs, weight)))


@pytest.mark.parametrize("dueling", [True, False])
@pytest.mark.parametrize("double", [True, False])
def test_td_errors_are_those_of_rlax(double: bool, dueling: bool) -> None:
    network = QNetwork(Encoder(False, 1), 4, dueling, (5,))
    params, target = (shaken(network.init(KEY, jnp.zeros((1, 3))), seed) for seed in (1, 2))
    data = minibatch(np.array([0, 3, 1, 2, 2, 0], np.int32))
    got = deepq.td_error(network, params, target, data, double)
    for i in range(BATCH):
        q, q_next, q_target = (
            network.apply(p, x[i]) for p, x in ((params, data.obs), (params, data.next_obs), (target, data.next_obs))
        )
        if double:
            error = rlax.double_q_learning(q, data.action[i], data.reward[i], data.discount[i], q_target, q_next)
        else:
            error = rlax.q_learning(q, data.action[i], data.reward[i], data.discount[i], q_target)
        np.testing.assert_allclose(got[i], -error, rtol=1e-5, atol=1e-6)
    # the target is a constant: only the value of the action that was played is learned
    by_target = jax.grad(lambda t: deepq.td_error(network, params, t, data, double).sum())(target)
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(by_target))


def test_steps_of_deepq_fall_with_the_schedule() -> None:
    """Adam's first step is the learning rate in each parameter whose gradient is not tiny."""
    options = {"lr_schedule": "linear", "learning_starts": 0, "batch_size": 4, "buffer_size": 16, "prioritized": False}
    learner = deepq.DeepQ()
    config, hyper = learner.configure(options | {"learning_rate": 0.01, "normalize": False})
    agent, rng = deepq.make(Spec("states", (3,), "float32", Discrete(4), 10), config), np.random.default_rng(0)
    obs, reward = rng.normal(size=(2, 4, 1, 3)).astype(np.float32), rng.normal(size=(4, 1)).astype(np.float32)
    no = np.zeros((4, 1), bool)
    batch = Transition(obs[0], rng.integers(4, size=(4, 1)).astype(np.int32), reward, no, no, obs[1], {})
    tree = learner.hyper_tree(hyper)
    before = agent.init(KEY, tree)
    for progress in (0.0, 0.75):
        clock = Clock(jnp.int32(0), jnp.float32(progress))
        after, metrics = jax.jit(agent.update)(before, batch, KEY, tree, clock)
        change = jax.tree.map(lambda new, old: jnp.abs(new - old).max(), after.acting.params, before.acting.params)
        np.testing.assert_allclose(max(jax.tree.leaves(change)), 0.01 * (1 - progress), rtol=1e-3)
        np.testing.assert_allclose(metrics["learning_rate"], 0.01 * (1 - progress), rtol=1e-5)


def test_dueling_is_a_switch_and_centres_the_advantage() -> None:
    on, off = (QNetwork(Encoder(False, 1), 4, dueling, (5,)) for dueling in (True, False))
    obs = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)), jnp.float32)
    params = shaken(on.init(KEY, obs), 1)
    tree = params["params"]
    assert len(jax.tree.leaves(off.init(KEY, obs))) == len(jax.tree.leaves(params)) // 2

    def dense(x: np.ndarray, layer: Any) -> np.ndarray:
        return x @ layer["kernel"] + layer["bias"]

    hidden = [np.maximum(dense(np.asarray(obs), tree[f"MLP_{i}"]["Dense_0"]), 0) for i in range(2)]
    advantage, value = (dense(h, tree[f"Dense_{i}"]) for i, h in enumerate(hidden))
    expected = value + advantage - advantage.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(on.apply(params, obs), expected, rtol=1e-5, atol=1e-5)


def networks() -> tuple[sac.Networks, Any, sac.Critic]:
    encoder = Encoder(False, 1)
    nets = sac.Networks(SquashedGaussianActor(encoder, 2, (5,)), Critics(encoder, 2, (5,)))
    actor = shaken(nets.actor.init(KEY, jnp.zeros((1, 3))), 1)
    params, target = (shaken(nets.critics.init(KEY, jnp.zeros((1, 3)), jnp.zeros((1, 2))), seed) for seed in (2, 3))
    return nets, actor, sac.Critic(params, target, jnp.log(jnp.float32(0.3)), ())


def test_sac_critic_loss_is_the_soft_bellman_residual() -> None:
    nets, actor, critic = networks()
    data = minibatch(np.random.default_rng(1).uniform(-1, 1, (BATCH, 2)).astype(np.float32))
    loss, value = sac.critic_loss(critic.params, nets, actor, critic, data, KEY)
    action, log_prob = nets.policy(actor, data.next_obs).sample_and_log_prob(KEY)
    squares, values = np.zeros(2), []
    for i in range(BATCH):
        smaller = min(nets.values(critic.target, data.next_obs[i], action[i]))
        goal = data.reward[i] + data.discount[i] * (smaller - 0.3 * log_prob[i])
        q = np.asarray(nets.values(critic.params, data.obs[i], data.action[i]))
        squares += data.weight[i] * (q - goal) ** 2 / BATCH
        values.append(q)
    np.testing.assert_allclose(loss, 0.5 * squares.sum(), rtol=1e-4)
    np.testing.assert_allclose(value, np.mean(values), rtol=1e-4)


def test_sac_actor_loss_weighs_entropy_against_value() -> None:
    nets, actor, critic = networks()
    data = minibatch(np.zeros((BATCH, 2), np.float32))
    loss, entropy = sac.actor_loss(actor, nets, critic, data, KEY)
    action, log_prob = nets.policy(actor, data.obs).sample_and_log_prob(KEY)
    terms = [0.3 * log_prob[i] - min(nets.values(critic.params, data.obs[i], action[i])) for i in range(BATCH)]
    np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-4)
    np.testing.assert_allclose(entropy, -np.mean(log_prob), rtol=1e-5)


@pytest.mark.parametrize(("scale", "falls"), [(100.0, True), (-100.0, False)])
def test_temperature_follows_the_target_entropy(scale: float, falls: bool) -> None:
    nets, actor, critic = networks()
    critic = critic._replace(optimizers=tuple(sac.ADAM.init(x) for x in (actor, critic.params, critic.log_ent_coef)))
    data = minibatch(np.zeros((BATCH, 2), np.float32))
    hyper = sac.Hyper(target_entropy_scale=jnp.float32(scale), tau=jnp.float32(0.1))
    for adapts in (True, False):
        config = sac.Config(auto_ent_coef=adapts)
        (_, after), metrics = sac.gradient_step(nets, config, hyper, jnp.float32(0.01), (actor, critic), data, KEY)
        change = float(after.log_ent_coef - critic.log_ent_coef)
        assert change == pytest.approx((-0.01 if falls else 0.01) if adapts else 0.0, abs=1e-5)
        np.testing.assert_allclose(metrics["ent_coef"], np.exp(after.log_ent_coef))
        for new, old, towards in zip(*map(jax.tree.leaves, (after.target, critic.target, after.params))):
            np.testing.assert_allclose(new, old + 0.1 * (towards - old), rtol=1e-4, atol=1e-6)


def test_the_density_of_a_squashed_gaussian_is_that_of_the_change_of_variables() -> None:
    mean, std = np.array([0.3, -1.0]), np.array([0.5, 2.0])
    pi = TanhGaussian(jnp.asarray(mean, jnp.float32), jnp.log(jnp.asarray(std, jnp.float32)))
    action, log_prob = jax.vmap(pi.sample_and_log_prob)(jax.random.split(KEY, 2000))
    action = np.asarray(action, np.float64)
    inside = (np.abs(action) < 0.999).all(axis=1)
    drawn = np.arctanh(action[inside])
    expected = (scipy.stats.norm.logpdf(drawn, mean, std) - np.log(1 - action[inside] ** 2)).sum(axis=1)
    np.testing.assert_allclose(np.asarray(log_prob)[inside], expected, atol=2e-3)
    assert np.isfinite(np.asarray(log_prob)).all()
    for i in range(2):
        assert scipy.stats.kstest(np.arctanh(action[:, i]), "norm", (mean[i], std[i])).pvalue > 1e-3
    np.testing.assert_allclose(pi.mode(), np.tanh(mean), rtol=1e-6)


def test_saturated_actions_have_finite_densities() -> None:
    pi = TanhGaussian(jnp.float32([40.0]), jnp.float32([0.0]))
    action, log_prob = pi.sample_and_log_prob(KEY)
    assert action[0] == 1.0 and np.isfinite(log_prob)
    slope = jax.grad(lambda m: TanhGaussian(m, jnp.zeros(1)).sample_and_log_prob(KEY)[1])(jnp.float32([40.0]))
    assert np.isfinite(slope).all()


def test_bounds_are_those_of_the_environment() -> None:
    bounds = ActionBounds("sac", Spec("Box", (1,), "float32", Box((-2.0, 0.0), (2.0, 10.0)), None))
    np.testing.assert_allclose(bounds.scale(jnp.float32([[-1, -1], [1, 0]])), [[-2, 0], [2, 5]])
    np.testing.assert_allclose(bounds.unscale(jnp.float32([[1, 7.5], [-9, 99]])), [[0.5, 0.5], [-1, 1]])
    with pytest.raises(ValueError, match="sac needs bounded actions, those of Endless"):
        ActionBounds("sac", Spec("Endless", (1,), "float32", Box((-np.inf,), (1.0,)), None))


def test_nothing_is_learned_before_it_is_time() -> None:
    def step(carry: jax.Array, key: jax.Array) -> tuple[jax.Array, dict]:
        return carry + 1, {"carry": carry}

    learned, metrics = gradient_steps(step, jnp.float32(0), KEY, 4, jnp.asarray(True), {})
    assert learned == 4 and metrics["carry"] == 1.5
    waited, metrics = gradient_steps(step, jnp.float32(0), KEY, 4, jnp.asarray(False), {})
    assert waited == 0 and metrics["carry"] == 0


def test_targets_follow_and_steps_become_iterations() -> None:
    np.testing.assert_allclose(track({"x": jnp.ones(2)}, {"x": jnp.zeros(2)}, 0.25)["x"], 0.75)
    assert [iterations_of(steps, 8) for steps in (1, 12, 500)] == [1, 2, 62]


@pytest.mark.parametrize("module", [deepq, sac])
def test_a_memory_smaller_than_a_rollout_is_refused(module: Any) -> None:
    action = Discrete(2) if module is deepq else Box((-1.0,), (1.0,))
    spec = Spec("Small", (1,), "float32", action, None)
    with pytest.raises(ValueError, match="a replay memory of 7 steps is too small: at least 8 are needed"):
        module.make(spec, module.Config(num_cpu=2, train_freq=4, buffer_size=7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"buffer_size": 31}, "--buffer-size=31 is too small for --batch-size of 32: at least 32 steps"),
        ({"num_cpu": 300}, "--buffer-size=1000 is too small for a rollout of 1200: at least 1200 steps"),
        ({"n_step": 1001}, "--buffer-size=1000 is too small for --n-step of 1001: at least 1001 steps"),
    ],
)
def test_options_that_do_not_fit_the_memory_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deepq.DeepQ.configure(options)
    deepq.DeepQ.configure({"buffer_size": 32})


def test_parameter_noise_is_measured_around_the_actor_that_it_was_drawn_around() -> None:
    """However far learning has moved the actor since; the sigma of noise on actions is the option's, loaded or not."""
    spec = Spec("States", (3,), "float32", Box((-1.0,), (1.0,)), None)
    config, values = ddpg.DDPG.configure(
        {"noise_param": True, "nb_rollout_steps": 4, "nb_train_steps": 20, "batch_size": 8, "normalize": False}
    )
    agent = ddpg.make(spec, config)
    hyper = ddpg.Hyper(**{**values, "actor_lr": 0.002, "noise_param_sigma": 0.1, "noise_action_sigma": 0.3})
    state = agent.init(KEY, hyper)
    loaded = state.acting._replace(actor=jax.tree.map(lambda x: x + 0.05, state.acting.actor), sigma=jnp.float32(9.0))
    state = agent.adopted(state._replace(acting=loaded))
    jax.tree.map(np.testing.assert_array_equal, state.learning.perturbed.actor, loaded.actor)

    rng = np.random.default_rng(0)
    obs, next_obs = rng.normal(size=(2, 4, 1, 3)).astype(np.float32)
    action, reward = rng.uniform(-1, 1, (4, 1, 1)).astype(np.float32), rng.normal(size=(4, 1)).astype(np.float32)
    never = np.zeros((4, 1), bool)
    batch = Transition(obs, action, reward, never, never, next_obs, {})
    update = jax.jit(agent.update)
    after, first = update(state, batch, KEY, hyper, Clock(jnp.int32(0), jnp.float32(0)))
    assert float(first["param_noise_distance"]) == 0 and float(after.acting.sigma) == pytest.approx(0.3)
    drawn_around, noisy = after.acting.actor, after.learning.perturbed.actor
    after, second = update(after, batch, KEY, hyper, Clock(jnp.int32(1), jnp.float32(0)))
    network = DeterministicActor(Encoder(False, 1), 1, config.net_arch)
    by_noise, by_learning = (
        float(jnp.sqrt(jnp.mean((network.apply(a, obs[:, 0]) - network.apply(drawn_around, obs[:, 0])) ** 2)))
        for a in (noisy, after.acting.actor)
    )
    assert float(second["param_noise_distance"]) == pytest.approx(by_noise, rel=1e-4)
    assert abs(by_learning - by_noise) > 1e-3
