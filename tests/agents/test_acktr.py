"""Whole updates of ACKTR against a reference that builds the Fisher blocks from gradients of single samples."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import acktr
from agents.common.normalizer import RunningStats, update_stats
from agents.types import AgentState, Clock, Transition
from envs.types import Box, Discrete, Spec
from tests.agents.test_losses import (
    CONTINUOUS,
    DISCRETE,
    Sample,
    Setting,
    a2c_gradient,
    clipped,
    distance,
    forward,
    log_prob_and_entropy,
    rollout,
    samples,
)

HYPER = {
    "learning_rate": 0.2,
    "gamma": 0.9,
    "lam": 0.7,
    "vf_coef": 0.7,
    "ent_coef": 0.3,
    "vf_fisher_coef": 0.6,
    "kfac_clip": 0.01,
    "damping": 0.05,
    "stats_decay": 0.6,
    "momentum": 0.8,
    "max_grad_norm": 0.4,
}
TORSOS, HEADS = ("policy_torso", "value_torso"), ("policy_head", "value_head")
PICTURES = Spec("pictures", (36, 40, 3), "uint8", Discrete(2), 10)


def setting(spec: Spec) -> Setting:
    """A learner with one cold iteration, whose parameters are far from their small start."""
    agent = acktr.make(spec, acktr.Config(num_cpu=3, n_steps=4, net_arch=(4,), cold_iterations=1))
    hyper = acktr.Hyper(**{name: jnp.float32(value) for name, value in HYPER.items()})
    state = jax.jit(agent.init)(jax.random.key(0), hyper)
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda x: np.asarray(x) + 0.7 * rng.normal(size=x.shape).astype("f"), state.acting.params)
    stats = RunningStats(jnp.array([0.5, -0.5, 0.0]), jnp.array([4.0, 0.25, 1.0]), jnp.float32(40.0))
    state = state._replace(acting=state.acting._replace(params=params, stats=stats))
    return Setting(agent, jax.jit(agent.update), hyper, state)


@jax.jit
def sample_gradients(params: Any, data: Sample, noise: jax.Array) -> Any:
    """Gradients [M, ...] of each sample's log likelihood."""

    def log_likelihood(params: Any, x: Sample, noise: jax.Array) -> jax.Array:
        policy, value = forward(params, x.obs)
        std = HYPER["vf_fisher_coef"] ** -0.5
        drawn = jax.lax.stop_gradient(value) + std * noise
        return log_prob_and_entropy(policy, x.action)[0] + jax.scipy.stats.norm.logpdf(drawn, value, std)

    return jax.vmap(jax.grad(log_likelihood), in_axes=(None, 0, 0))(params, data, noise)["params"]


class Reference:
    """Factors and velocity, kept in float64."""

    def __init__(self) -> None:
        self.number = 0
        self.factors: dict[str, list[np.ndarray]] = {}
        self.velocity: Any = 0.0

    def step(self, state: AgentState, batch: Transition, key: jax.Array, rate: float, clip: float) -> tuple[Any, float]:
        """Parameters after an update, and the factor by which the trust region cut the step."""
        params = state.acting.params
        data = samples(state, batch, HYPER["gamma"], HYPER["lam"])
        grads = jax.tree.map(lambda g: np.asarray(g, np.float64), a2c_gradient(params, data, HYPER))["params"]
        self._observe(params, data, sample_gradients(params, data, jax.random.normal(key, (len(data.obs),))))
        natural = {name: self._natural(name, grads[name]) for name in grads}
        product = sum(jax.tree.leaves(jax.tree.map(lambda n, g: np.sum(n * g), natural, grads)))
        scale = min(1.0, np.sqrt(clip / (rate**2 * product)))
        if self.number == 1:  # cold
            step = clipped(grads, HYPER["max_grad_norm"])[0]
        else:
            step = jax.tree.map(lambda n: scale * n, natural)
        if self.number == 1:
            self.velocity = jax.tree.map(np.zeros_like, step)
        self.velocity = jax.tree.map(lambda v, s: 0.8 * v + (1 - 0.8) * s, self.velocity, step)
        return jax.tree.map(lambda p, v: p - rate * v, params["params"], self.velocity), scale

    def _observe(self, params: Any, data: Sample, singles: Any) -> None:
        """Average a batch's factors; the gradient by a bias is the one by the layer's outputs."""
        self.number += 1
        weight = max(1 / self.number, 1 - HYPER["stats_decay"])
        for torso, head in zip(TORSOS, HEADS):
            layer = params["params"][torso]["Dense_0"]
            hidden = np.tanh(data.obs @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]))
            for name, inputs in ((torso, data.obs), (head, hidden)):
                rows = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1).astype(np.float64)
                gradients = np.asarray(singles[name]["Dense_0"]["bias"], np.float64)
                new = [rows.T @ rows / len(rows), gradients.T @ gradients / len(rows)]
                old = self.factors.get(name, new)
                self.factors[name] = [(1 - weight) * o + weight * n for o, n in zip(old, new)]

    def _natural(self, name: str, grads: Any) -> Any:
        """Natural gradient of a layer and of the spread of actions beside it."""
        a, g = self.factors[name]
        root = np.sqrt(HYPER["damping"])
        ratio = np.sqrt(np.trace(a) / len(a) / (np.trace(g) / len(g)))
        a, g = a + ratio * root * np.eye(len(a)), g + root / ratio * np.eye(len(g))
        matrix = np.concatenate([grads["Dense_0"]["kernel"], grads["Dense_0"]["bias"][None]])
        matrix = np.linalg.solve(np.kron(a, g), matrix.reshape(-1)).reshape(matrix.shape)
        spread = {"log_std": grads["log_std"] / (2 + HYPER["damping"])} if "log_std" in grads else {}
        return {"Dense_0": {"kernel": matrix[:-1], "bias": matrix[-1]}} | spread


@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_updates(spec: Spec) -> None:
    """A cold one, two that the trust region cuts, and one that it does not; factors and momentum carry over."""
    given, reference = setting(spec), Reference()
    state = given.state
    for iteration, clip in enumerate((0.01, 0.01, 0.002, 1e6)):
        batch = rollout(given._replace(state=state), spec, 0.0)
        key, hyper = jax.random.key(iteration), dataclasses.replace(given.hyper, kfac_clip=jnp.float32(clip))
        clock = Clock(jnp.int32(iteration), jnp.float32(0.25))
        after, metrics = given.update(state, batch, key, hyper, clock)
        expected, scale = reference.step(state, batch, key, 0.75 * HYPER["learning_rate"], clip)
        assert distance(after.acting.params["params"], expected) < 4e-5
        assert distance(after.acting.params, state.acting.params) > 2e-3
        assert (scale < 0.9) == (clip < 1)
        np.testing.assert_allclose(metrics["trust_region_scale"], scale, rtol=1e-2)
        np.testing.assert_allclose(metrics["learning_rate"], 0.15, rtol=1e-6)
        assert distance(after.acting.stats, update_stats(state.acting.stats, batch.obs)) < 1e-6
        state = after


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(PICTURES, id="discrete", marks=pytest.mark.slow),
        pytest.param(dataclasses.replace(PICTURES, action=Box((-1.0,), (1.0,))), id="continuous"),
    ],
)
def test_pictures_are_learned(spec: Spec) -> None:
    """A bright picture asks for action 1, a dark one for the other; both are known after sixty batches."""
    config = acktr.Config(num_cpu=16, n_steps=1, inverse_interval=10, lr_schedule="constant", log_std_init=-1.0)
    agent = acktr.make(spec, config)
    hyper = acktr.ACKTR.hyper_tree(acktr.ACKTR.configure({"ent_coef": 0.0})[1])
    bright = np.tile([True, False], 8)[None]
    texture = np.random.default_rng(0).integers(0, 55, (1, 16, *spec.obs_shape))
    obs = jnp.asarray(texture + 200 * bright[..., None, None, None], jnp.uint8)

    @jax.jit
    def learn(state: AgentState) -> tuple[AgentState, jax.Array]:
        def body(i: jax.Array, carry: tuple) -> tuple:
            state, _ = carry
            keys = jax.random.split(jax.random.fold_in(jax.random.key(1), i))
            action, extras = agent.act(state, obs[0], keys[0], True)
            wanted = jnp.where(bright[0], 1.0, -1.0)
            reward = wanted * (2.0 * action - 1) if spec == PICTURES else -((action[:, 0] - 0.5 * wanted) ** 2)
            done = jnp.ones((1, 16), bool)
            rows = jax.tree.map(lambda x: x[None], (action, reward, extras))
            batch = Transition(obs, rows[0], rows[1].astype(jnp.float32), done, ~done, obs, rows[2])
            state, metrics = agent.update(state, batch, keys[1], hyper, Clock(i, jnp.float32(0)))
            return state, metrics["value_loss"]

        return jax.lax.fori_loop(0, 60, body, (state, jnp.float32(0)))

    state, value_loss = learn(agent.init(jax.random.key(0), hyper))
    assert value_loss < 0.1
    answers = np.asarray(agent.probabilities(state, obs[0]))
    if spec == PICTURES:
        assert (answers[bright[0], 1] > 0.9).all() and (answers[~bright[0], 0] > 0.9).all()
    else:
        np.testing.assert_allclose(answers[:, 0], np.where(bright[0], 0.5, -0.5), atol=0.2)


def test_what_does_not_fit_is_refused_before_anything_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    config = acktr.Config(num_cpu=16)
    acktr.make(PICTURES, config)
    monkeypatch.setattr(acktr, "available_memory", lambda: 2**24)
    with pytest.raises(ValueError, match=r"^acktr's Fisher factors and a batch of 80 need .* GiB, the device has 0.0"):
        acktr.make(PICTURES, config)
