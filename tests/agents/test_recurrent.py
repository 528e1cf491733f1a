"""Policies that remember: a rollout unrolled is the rollout played, and what must be remembered is learned."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import a2c, acer, acktr, ppo2
from agents.common import kfac
from agents.common.on_policy import ActorCriticPolicy, Estimates
from agents.types import AgentState, Player
from envs.types import Box, Discrete, Spec
from launch.runtime.drivers.device import DeviceDriver
from launch.runtime.policy import actor
from tests.probes import Recall

STATES = Spec("states", (3,), "float32", Discrete(3), 10)
PICTURES = Spec("pictures", (36, 36, 1), "uint8", Box((-1.0, -1.0), (1.0, 1.0)), 10)
ALGORITHMS: dict[str, Any] = {"a2c": a2c.A2C, "acer": acer.ACER, "acktr": acktr.ACKTR, "ppo2": ppo2.PPO2}


def policy_for(spec: Spec, memory: str, **options: Any) -> ActorCriticPolicy:
    """A small policy with memory."""
    return ActorCriticPolicy(spec, (5,), "tanh", -0.5, True, memory=memory, memory_size=6, **options)


def moved(params: Any) -> Any:
    """Parameters away from their start, where gains are all 1 and shifts 0."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32), params)


# -- the cell -----------------------------------------------------------------------------------------------------


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Logistic function."""
    return 1 / (1 + np.exp(-x))


def layer_norm(x: np.ndarray, params: Any) -> np.ndarray:
    """Ba et al. 2016, equation 4, of one vector."""
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return x * params["Scale_0"]["scale"] + params["Scale_0"]["bias"]


@pytest.mark.parametrize("memory", [pytest.param("lstm", marks=pytest.mark.slow), "lnlstm"])
def test_the_cell_is_that_of_the_papers(memory: str) -> None:
    """One environment at a time, step by step, by a loop."""
    policy = policy_for(STATES, memory)
    params = jax.tree.map(np.float64, moved(policy.init(jax.random.key(0)).params))
    rng = np.random.default_rng(0)
    obs, begin = rng.normal(size=(6, 2, 3)), rng.random((6, 2)) < 0.3
    carry = tuple(rng.normal(size=(2, 6)) for _ in range(2))
    _, value, after = policy.unroll(params, obs.astype(np.float32), carry, begin)
    p = params["params"]
    lstm, step = p["lstm"], p["lstm"]["step"]
    for n in range(2):
        cell, out = carry[0][n], carry[1][n]
        for t in range(6):
            if begin[t, n]:
                cell, out = np.zeros(6), np.zeros(6)
            torso = p["policy_torso"]["Dense_0"]
            x = np.tanh(obs[t, n] @ torso["kernel"] + torso["bias"]) @ lstm["input"]["kernel"]
            h = out @ step["recurrent"]["kernel"]
            if memory == "lnlstm":
                gates = layer_norm(x, lstm["input_norm"]) + layer_norm(h, step["recurrent_norm"])
            else:
                gates = x + lstm["input"]["bias"] + h
            i, f, o, g = np.split(gates, 4)
            cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
            out = sigmoid(o) * np.tanh(layer_norm(cell, step["cell_norm"]) if memory == "lnlstm" else cell)
            np.testing.assert_allclose(after[0][t, n], cell, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(after[1][t, n], out, rtol=1e-4, atol=1e-5)
            head = p["value_head"]["Dense_0"]
            np.testing.assert_allclose(value[t, n], (out @ head["kernel"] + head["bias"])[0], rtol=1e-4, atol=1e-5)


def test_weights_begin_orthogonal() -> None:
    lstm = policy_for(STATES, "lstm").init(jax.random.key(0)).params["params"]["lstm"]
    for kernel in (np.asarray(lstm["input"]["kernel"]), np.asarray(lstm["step"]["recurrent"]["kernel"])):
        np.testing.assert_allclose(kernel @ kernel.T, np.eye(len(kernel)), atol=1e-5)
    assert not np.asarray(lstm["input"]["bias"]).any()


# -- unrolling is stepping ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "memory", "noise_steps"),
    [(STATES, "lnlstm", 0), pytest.param(PICTURES, "lstm", 3, marks=pytest.mark.slow)],
    ids=["states-discrete", "pictures-continuous-sde"],
)
def test_unrolling_is_stepping(spec: Spec, memory: str, noise_steps: int) -> None:
    """What `update` makes of a rollout is what `act` made of it, across ends of episodes and from what was known."""
    policy = policy_for(spec, memory, noise_steps=noise_steps)
    acting = policy.init(jax.random.key(0))
    acting = acting._replace(params=moved(acting.params))
    player = Player(policy.agent(lambda *_: AgentState((), ()), lambda *_: (), None))  # type: ignore[arg-type, return-value]
    rng = np.random.default_rng(3)
    shape = (9, 2, *spec.obs_shape)
    obs = rng.integers(0, 255, shape).astype(np.uint8) if spec.pixels else rng.normal(size=shape).astype(np.float32)
    done = rng.random((9, 2)) < 0.3
    act, state, memory_now = jax.jit(player.act, static_argnums=3), AgentState(acting, ()), player.begin(2)
    started = memory_now
    rows = []
    for t in range(9):
        if t == 3:
            started = memory_now  # a rollout from here
        action, extras, memory_now = act(state, obs[t], jax.random.key(t), True, memory_now)
        rows.append((action, extras["log_prob"]))
        memory_now = player.forget(memory_now, done[t])
    action, log_prob = (np.stack([row[i] for row in rows[3:]]) for i in range(2))
    begin = np.concatenate([np.zeros((1, 2), bool), done[3:-1]])
    stats = acting.stats
    seen = obs[3:] if spec.pixels else np.clip((obs[3:] - stats.mean) / np.sqrt(stats.var + 1e-8), -10, 10)
    pi, value, after = jax.jit(policy.unroll)(acting.params, seen, started.carry, begin)
    np.testing.assert_allclose(pi.log_prob(action), log_prob, rtol=1e-5, atol=1e-5)
    last = jax.tree.map(lambda x: np.where(done[-1][:, None], 0.0, x[-1]), after)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), last, memory_now.carry)
    # The successor within an episode is the next observation, and so is its value.
    following = np.asarray(policy.after(acting.params, np.concatenate([seen[1:], seen[:1]]), after)[1])
    within = ~done[3:-1]
    assert within.any() and done[3:-1].any()
    np.testing.assert_allclose(following[:-1][within], np.asarray(value)[1:][within], rtol=1e-5, atol=1e-5)
    assert np.abs(following[:-1] - np.asarray(value)[1:])[~within].max() > 1e-3


def test_memory_begins_anew_where_an_episode_ended() -> None:
    """`getAction` takes observations as the next of its episodes, and `dones` tells where one has ended."""
    config, _ = a2c.A2C.configure({"policy": "lstm", "n_lstm": 6, "net_arch": (), "num_cpu": 2})
    spec = dataclasses.replace(STATES, action=Box((-1.0,), (1.0,)))
    agent = a2c.make(spec, config)
    acting = jax.jit(agent.init)(jax.random.key(0), a2c.Hyper()).acting
    acting = acting._replace(params=moved(acting.params))

    obs = np.random.default_rng(0).normal(size=(3, 2, 3)).astype(np.float32)
    algorithm = a2c.A2C()
    algorithm.adopt(agent, spec, acting, {})
    fresh = algorithm.getAction(obs[2])

    def third(dones: list[bool]) -> np.ndarray:
        """What is done at the third step, where all began anew at the first."""
        algorithm.getAction(obs[0], np.array([True, True]))
        algorithm.getAction(obs[1], np.array([False, False]))
        return algorithm.getAction(obs[2], np.array(dones))

    on = third([False, False])
    assert (np.abs(on - fresh) > 1e-4).all()
    np.testing.assert_allclose(third([False, True]), [on[0], fresh[1]], atol=1e-6)
    for dones in (np.array([False, True]), np.array([False, False])):  # asked before, it tells what will be done
        told = algorithm.getActionProba(obs[0], dones)
        np.testing.assert_allclose(algorithm.getAction(obs[0], dones), told, atol=1e-6)


def test_a_player_tells_the_probabilities_it_acts_by() -> None:
    config, _ = a2c.A2C.configure({"policy": "lstm", "n_lstm": 6, "net_arch": (), "num_cpu": 2})
    agent = a2c.make(STATES, config)
    acting = jax.jit(agent.init)(jax.random.key(0), a2c.Hyper()).acting
    algorithm = a2c.A2C()
    algorithm.adopt(agent, STATES, acting._replace(params=moved(acting.params)), {})
    play, reference = actor(algorithm, True, 0), a2c.A2C()
    reference.adopt(agent, STATES, algorithm.state.acting, {})
    rng = np.random.default_rng(0)
    for step in range(6):
        obs, dones = rng.normal(size=(2, 3)).astype(np.float32), np.array([step == 3, False])
        told = reference.getActionProba(obs, dones)
        np.testing.assert_array_equal(play(obs, dones), reference.getAction(obs, dones))
        np.testing.assert_allclose(play.probabilities(obs), told, atol=1e-6)


def test_whole_environments_must_divide_into_minibatches() -> None:
    with pytest.raises(ValueError, match="--nminibatches=4 must divide --num-cpu=6"):
        ppo2.make(STATES, ppo2.Config(policy="lstm", num_cpu=6))


def test_minibatches_are_whole_environments() -> None:
    policy = policy_for(STATES, "lstm")
    column = np.arange(15.0).reshape(5, 3)
    carry = (np.arange(3.0)[:, None], -np.arange(3.0)[:, None])
    data = Estimates(*[column + 100 * i for i in range(6)], carry, column > 7)
    rows = policy.rows(data)
    assert len(rows.action) == 3
    part = policy.from_rows(jax.tree.map(lambda x: x[np.array([2, 0])], rows))
    for got, whole in zip(part, data, strict=True):
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(whole), strict=True):
            np.testing.assert_array_equal(a, b[[2, 0]] if len(b) == 3 else b[:, [2, 0]])


def test_replayed_rollouts_come_with_what_was_remembered() -> None:
    rows = np.arange(4 * 3).reshape(4, 3)  # 4 stored rollouts of 3 environments
    steps = np.broadcast_to(rows[:, None], (4, 5, 3))
    carry = (jnp.asarray(rows[..., None]), -jnp.asarray(rows[..., None]))
    stored = acer.Sequence(*[jnp.asarray(x) for x in (steps, rows, steps, steps, steps, steps)], carry)
    got = acer._pick(stored, jnp.array([3, 0, 2]))
    expected = rows[[3, 0, 2], [0, 1, 2]]
    np.testing.assert_array_equal(got.carry[0][:, 0], expected)
    np.testing.assert_array_equal(got.carry[1][:, 0], -expected)
    np.testing.assert_array_equal(got.last_obs, expected)
    np.testing.assert_array_equal(got.action, np.broadcast_to(expected, (5, 3)))


# -- natural gradients ------------------------------------------------------------------------------------------------


def test_gradients_of_layers_are_sums_over_steps_of_inputs_and_derivatives() -> None:
    """What K-FAC sees of every layer, those within the loop over time included, against plain gradients."""
    spec = dataclasses.replace(STATES, action=PICTURES.action)
    policy = ActorCriticPolicy(spec, (5,), "tanh", -0.5, False, memory="lnlstm", memory_size=4)
    network, rng = policy.network, np.random.default_rng(0)
    params = moved(policy.init(jax.random.key(0)).params)
    obs, begin = rng.normal(size=(4, 2, 3)).astype(np.float32), rng.random((4, 2)) < 0.3
    inputs = obs, tuple(rng.normal(size=(2, 4)).astype(np.float32) for _ in range(2)), begin
    weights = rng.normal(size=(4, 2, 3)).astype(np.float32)
    layers = kfac.layers_of(network.apply, params, *inputs)
    names = ["/".join(layer.path) for layer in layers]
    assert [name for name in names if "lstm" in name] == [
        "lstm/input",
        "lstm/input_norm/Scale_0",
        "lstm/step/recurrent",
        "lstm/step/recurrent_norm/Scale_0",
        "lstm/step/cell_norm/Scale_0",
    ]

    def score(outputs: Any) -> jax.Array:
        (mean, _), value = outputs
        return (mean * weights[..., :2]).sum() + (value * weights[..., 2]).sum()

    @jax.jit
    def seen(params: Any) -> tuple:
        tape = kfac.forward(layers, network.apply, params, *inputs)
        return tape.inputs, tape.pullback(jax.grad(score)(tape.outputs))[1]

    plain = jax.jit(jax.grad(lambda p: score(network.apply(p, *inputs))))(params)["params"]
    for layer, x, g in zip(layers, *seen(params), strict=True):
        grads = plain
        for name in layer.path:
            grads = grads[name]
        x, g = np.asarray(x).reshape(8, -1), np.asarray(g).reshape(8, -1)
        if layer.elementwise:
            np.testing.assert_allclose((x * g).sum(axis=0), grads["scale"], rtol=1e-3, atol=1e-4)
        else:
            np.testing.assert_allclose(x.T @ g, grads["kernel"], rtol=1e-3, atol=1e-4)
        if layer.bias:
            np.testing.assert_allclose(g.sum(axis=0), grads["bias"], rtol=1e-3, atol=1e-4)
        assert layer.bias == ("bias" in grads)


def test_gains_and_shifts_have_exact_blocks() -> None:
    rng, damping = np.random.default_rng(0), 0.03
    layer = kfac.Layer(("norm",), (3,), (3,), elementwise=True)
    x, g = rng.normal(size=(2, 5, 4, 3)).astype(np.float32)
    batch = (kfac.statistics(layer, jnp.asarray(x), jnp.asarray(g)),)
    update = jax.jit(kfac.update_curvature, static_argnums=(0, 4))
    curvature = update((layer,), kfac.init_curvature((layer,)), batch, jnp.int32(0), 1, 0.99, damping)
    grads = {"scale": rng.normal(size=3).astype(np.float32), "bias": rng.normal(size=3).astype(np.float32)}
    got = kfac.precondition((layer,), curvature, {"params": {"norm": grads}}, damping)["params"]["norm"]
    fisher = np.zeros((3, 2, 2))
    for t, n, i in np.ndindex(5, 4, 3):
        by_both = g[t, n, i] * np.array([x[t, n, i], 1.0])
        fisher[i] += np.outer(by_both, by_both) / 20
    ratio = np.sqrt(np.trace(fisher, axis1=1, axis2=2).sum() / 6)
    for i in range(3):
        damped = (fisher[i] + ratio * np.sqrt(damping) * np.eye(2)) * (1 + np.sqrt(damping) / ratio)
        expected = np.linalg.solve(damped, [grads["scale"][i], grads["bias"][i]])
        np.testing.assert_allclose([got["scale"][i], got["bias"][i]], expected, rtol=1e-4)


# -- whole learners -----------------------------------------------------------------------------------------------

BASE = {"policy": "lstm", "net_arch": (), "n_lstm": 16, "num_cpu": 32, "ent_coef": 0.0, "normalize": False}
LEARN: dict[str, tuple[int, dict[str, Any]]] = {
    "a2c": (1500, {"n_steps": 8, "learning_rate": 0.003, "gamma": 0.9}),
    "acer": (400, {"n_steps": 8, "learning_rate": 0.01, "buffer_size": 256, "replay_start": 64, "gamma": 0.9}),
    "acktr": (300, {"n_steps": 8, "gamma": 0.9, "learning_rate": 0.25}),
    "ppo2": (100, {"n_steps": 8, "learning_rate": 0.01, "gamma": 0.9}),
}


@functools.cache
def returns(name: str, policy: str, continuous: bool = False) -> np.ndarray:
    """Train on Recall and play; returns [episodes] of the deterministic policy."""
    cls, (iterations, options) = ALGORITHMS[name], LEARN[name]
    env = Recall(continuous)
    more = {"log_std_init": -1.0} if continuous else {}
    config, hyper = cls.configure(BASE | options | more | {"policy": policy})
    agent = cls.make(env.spec, config)
    tree = cls.hyper_tree({key: np.full(1, value) for key, value in hyper.items()})
    driver = DeviceDriver(env, agent, tree, np.array([1]), iterations, max_chunk=iterations)
    driver.run(iterations)
    return driver.evaluate(200, 0)[0]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "policy"),
    [("ppo2", "lstm")]
    + [pytest.param(n, p, marks=SLOW) for n in LEARN for p in ("lstm", "lnlstm") if (n, p) != ("ppo2", "lstm")],
)
def test_what_was_shown_at_the_start_is_recalled(name: str, policy: str) -> None:
    assert returns(name, policy).mean() == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARN)
def test_without_memory_it_is_chance(name: str) -> None:
    """200 episodes of +-1: a mean beyond 0.3 has a chance of 2e-5."""
    assert abs(returns(name, "feedforward").mean()) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LEARN if name != "acer"])
def test_continuous_actions_recall(name: str) -> None:
    """Without memory -0.25 at best."""
    assert returns(name, "lstm", continuous=True).mean() > -0.01
