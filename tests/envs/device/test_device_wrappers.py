"""FrameStack against a slow loop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.device.batch import BatchEnv
from envs.device.cartpole import CartPole
from envs.device.wrappers import FrameStack
from envs.types import Discrete, Spec, TimeStep


class Pictures:
    """2x2 pictures with two channels that tell the step; truncated after three."""

    spec = Spec("pictures", (2, 2, 2), "uint8", Discrete(2), 3)

    def reset(self, key):
        return jnp.zeros((), jnp.int32), self.picture(jnp.zeros((), jnp.int32))

    def step(self, state, action):
        return state + 1, TimeStep(
            self.picture(state + 1), jnp.zeros(()), jnp.zeros((), bool), state + 1 >= self.spec.max_episode_steps
        )

    def picture(self, steps):
        return (jnp.arange(8, dtype=jnp.uint8).reshape(2, 2, 2) + 10 * (steps + 1)).astype(jnp.uint8)


@pytest.mark.parametrize("make", [CartPole, Pictures])
@pytest.mark.parametrize("num_stack", [1, 3])
def test_stack_holds_the_last_observations_of_this_episode(make, num_stack):
    plain, stacked = BatchEnv(make()), BatchEnv(FrameStack(make(), num_stack))
    channels = plain.spec.obs_shape[-1]
    keys = jax.random.split(jax.random.key(0), 3)
    state, obs = plain.reset(keys)
    stack_state, stack = stacked.reset(keys)
    expected = np.zeros((3, *stacked.spec.obs_shape), plain.spec.obs_dtype)
    expected[..., -channels:] = obs
    np.testing.assert_array_equal(stack, expected)
    ends = 0
    plain_step, stacked_step = jax.jit(plain.step), jax.jit(stacked.step)
    for _ in range(30):
        action = jnp.ones(3, jnp.int32)
        state, step = plain_step(state, action)
        stack_state, stack_step = stacked_step(stack_state, action)
        expected = np.concatenate([expected[..., channels:], step.next_obs], axis=-1)
        np.testing.assert_array_equal(stack_step.next_obs, expected)
        for i in np.flatnonzero(step.terminated | step.truncated):
            ends += 1
            expected[i] = 0
            expected[i, ..., -channels:] = step.obs[i]
        np.testing.assert_array_equal(stack_step.obs, expected)
        np.testing.assert_array_equal(stack_step.reward, step.reward)
    assert ends > 3
    assert stack_step.obs.dtype == plain.spec.obs_dtype


def test_spec_tells_the_stacked_shape():
    assert FrameStack(CartPole(), 4).spec.obs_shape == (16,)
    assert FrameStack(Pictures(), 4).spec.obs_shape == (2, 2, 8)
    assert FrameStack(Pictures(), 4).spec.action == Pictures.spec.action


def test_at_least_one_frame():
    with pytest.raises(ValueError, match="num_stack must be at least 1, got 0"):
        FrameStack(CartPole(), 0)
