"""Whether an environment keeps the toolbox's contract: what its author calls before training on it.

    check_host_env(MyEnv())        # plays a few episodes
    check_device_env(MyTwin())     # traces, compiles and plays
    check_device_types(MyTwin())   # traces only; `launch/train.py --plugin` does so for every device environment

Each returns None, or raises a ValueError of one line that says what is wrong and how to mend it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.types import Box, Discrete, Spec, TimeStep

if TYPE_CHECKING:
    import gymnasium

_PLAYED_WITHOUT_LIMIT = 1000  # steps, where an environment declares no longest episode
# What Gymnasium's checker remarks on and the toolbox allows: states without bounds, one render mode at a time.
_ALLOWED = (".*Box observation space m.* value is -?infinity", ".*Not able to test alternative render modes")


def check_host_env(env: gymnasium.Env, seed: int = 0) -> None:
    """Check an environment that runs in host processes: Gymnasium's own checker, then the toolbox's rules.

    Plays up to three episodes of random actions: not for a real robot that could do harm. The environment stays open.

    Args:
        env: The environment, with any render mode.
        seed: Seed of episodes and actions.

    Raises:
        ValueError: It breaks the contract.
    """
    import gymnasium
    from gymnasium.utils.env_checker import check_env

    from envs.host.gymnasium_env import adapt, spec_of

    name = type(getattr(env, "unwrapped", env)).__name__
    if not isinstance(env, gymnasium.Env):
        raise ValueError(f"{name}: it must derive from gymnasium.Env")
    with warnings.catch_warnings(), _as_contract(f"{name}: gymnasium's checker refuses it"):
        for message in _ALLOWED:
            warnings.filterwarnings("ignore", message)
        check_env(env.unwrapped, skip_render_check=True)
    spec = spec_of(adapt(env, 1, name), name)
    _check_longest_episode(name, spec.max_episode_steps)
    first = _host_episode(env, name, spec, seed)
    _host_episode(env, name, spec, seed + 1)
    again = _host_episode(env, name, spec, seed)
    if not all(np.array_equal(a, b) for a, b in zip(first, again)):
        raise ValueError(
            f"{name}: an episode that was seeded alike differs after another one: draw from self.np_random alone, and "
            "let reset set everything back"
        )
    if env.render_mode == "rgb_array":
        _check_picture(name, env.render())


def check_device_env(env: Any, seed: int = 0) -> None:
    """Check an environment that runs on the device: types, purity, keys, batches, and an episode of random actions.

    Args:
        env: The environment, without batch axis.
        seed: Seed of episodes and actions.

    Raises:
        ValueError: It breaks the contract.
    """
    import jax
    import jax.numpy as jnp

    check_device_types(env)
    name = type(env).__name__
    _check_purity(env, name)
    keys = jax.random.split(jax.random.key(seed), 3)

    def start(key: Any) -> tuple[Any, Any, TimeStep]:
        reset_key, action_key = jax.random.split(key)
        state, obs = env.reset(reset_key)
        return state, obs, env.step(state, _random_action(env.spec, action_key))[1]

    with jax.debug_key_reuse(True), _as_contract(f"{name}: its random keys (split a key before each use)"):
        jax.block_until_ready(jax.jit(start)(jax.random.key(seed)))
    together = jax.jit(jax.vmap(start))(keys)
    alone = jax.jit(start)(keys[1])
    for one, many in zip(jax.tree.leaves(alone), jax.tree.leaves(together)):
        if jnp.issubdtype(one.dtype, jnp.number) and not np.allclose(one, many[1], rtol=1e-3, atol=2):
            raise ValueError(f"{name}: under vmap an episode differs from the same one alone")
    _check_episode(env, name, keys[2])


def check_device_types(env: Any) -> None:
    """Check the spec of a device environment, and what reset and step return, by tracing alone.

    Raises:
        ValueError: It breaks the contract.
    """
    import jax

    name = type(env).__name__
    spec = getattr(env, "spec", None)
    if not isinstance(spec, Spec):
        raise ValueError(f"{name}.spec is {spec!r}: it must be an envs.types.Spec")
    _check_spec(name, spec)
    with _as_contract(f"{name}.reset(key) cannot be traced"):
        started = jax.eval_shape(env.reset, jax.random.key(0))
    if not isinstance(started, tuple) or len(started) != 2:
        raise ValueError(f"{name}.reset(key) must return (state, observation)")
    state, obs = started
    _check_array(f"{name}.reset: the observation", obs, spec.obs_shape, spec.obs_dtype)
    action = jax.ShapeDtypeStruct(spec.action_shape, np.dtype(spec.action_dtype))
    with _as_contract(f"{name}.step(state, action) cannot be traced"):
        stepped = jax.eval_shape(env.step, state, action)
    if not isinstance(stepped, tuple) or len(stepped) != 2 or not isinstance(stepped[1], TimeStep):
        raise ValueError(f"{name}.step(state, action) must return (state, envs.types.TimeStep)")
    after, step = stepped
    _check_array(f"{name}.step: the observation", step.obs, spec.obs_shape, spec.obs_dtype)
    _check_array(f"{name}.step: reward", step.reward, (), "float32")
    _check_array(f"{name}.step: terminated", step.terminated, (), "bool")
    _check_array(f"{name}.step: truncated", step.truncated, (), "bool")
    _check_same_state(name, state, after)


@contextlib.contextmanager
def _as_contract(what: str) -> Iterator[None]:
    """Turn whatever is raised inside into one line that begins with `what`."""
    try:
        yield
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"{what}: {type(error).__name__}: {lines[0] if lines else ''}") from error


def _check_longest_episode(name: str, steps: Any) -> None:
    """The longest episode is a whole number of steps, or None."""
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise ValueError(f"{name}: max_episode_steps is {steps!r}: it must be None or a whole number from 1")


def _check_spec(name: str, spec: Spec) -> None:
    """Whether a spec says something possible."""
    if spec.obs_dtype not in ("uint8", "float32"):
        raise ValueError(f"{name}.spec: obs_dtype is {spec.obs_dtype!r}: it must be 'float32', or 'uint8' for pictures")
    if spec.obs_dtype == "uint8" and not spec.pixels:
        raise ValueError(
            f"{name}.spec: uint8 observations are pictures (height, width, channels), not {spec.obs_shape}"
        )
    if isinstance(spec.action, Discrete):
        if spec.action.n < 1:
            raise ValueError(f"{name}.spec: Discrete({spec.action.n}) has no action: at least 1")
    elif not isinstance(spec.action, Box):
        raise ValueError(f"{name}.spec: action is {spec.action!r}: it must be envs.types.Discrete or Box")
    elif len(spec.action.low) != len(spec.action.high) or not np.all(np.less(spec.action.low, spec.action.high)):
        raise ValueError(f"{name}.spec: each low of the actions must be below its high: {spec.action}")
    _check_longest_episode(name, spec.max_episode_steps)


def _check_array(what: str, leaf: Any, shape: tuple[int, ...], dtype: str) -> None:
    """Whether a traced result has the shape and type that it must have."""
    found = (tuple(getattr(leaf, "shape", ())), str(getattr(leaf, "dtype", type(leaf).__name__)))
    if found != (tuple(shape), dtype):
        raise ValueError(f"{what} is {found[1]} {list(found[0])}: it must be {dtype} {list(shape)}")


def _check_same_state(name: str, state: Any, after: Any) -> None:
    """Whether step returns the kind of state that it is given; another kind would be compiled anew, or not scanned."""
    import jax

    before_structure: Any = jax.tree.structure(state)
    if before_structure != jax.tree.structure(after):
        raise ValueError(f"{name}.step must return a state of the structure that reset returns")
    pairs = zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(after))
    for (path, before), now in pairs:
        where = f"{name}: state{jax.tree_util.keystr(path)}"
        if (before.shape, before.dtype) != (now.shape, now.dtype):
            raise ValueError(
                f"{where} is {before.dtype} {list(before.shape)} after reset and {now.dtype} {list(now.shape)} after "
                "step: it must stay the same"
            )
        if before.weak_type != now.weak_type:
            raise ValueError(f"{where} is a Python number once: give it its type, jnp.{before.dtype}(...), in both")


def _check_purity(env: Any, name: str) -> None:
    """Whether reset and step depend on their arguments alone: traced twice, they must be the same programs."""
    import jax

    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    action = jax.ShapeDtypeStruct(env.spec.action_shape, np.dtype(env.spec.action_dtype))
    for method, arguments in (("reset", (jax.random.key(0),)), ("step", (state, action))):
        call = getattr(env, method)
        first = _traced_anew(call, arguments)
        before = dict(vars(env))
        second = _traced_anew(call, arguments)
        changed = [key for key, value in vars(env).items() if value is not before.get(key)]
        if changed:
            raise ValueError(f"{name}.{method} changes self.{changed[0]}: what changes belongs into the state")
        same = len(first.consts) == len(second.consts) and all(map(np.array_equal, first.consts, second.consts))
        if str(first.jaxpr) != str(second.jaxpr) or not same:
            raise ValueError(
                f"{name}.{method} is another program each time: it must depend on its arguments alone (draw from the "
                "key, keep what changes in the state)"
            )


def _traced_anew(call: Any, arguments: tuple[Any, ...]) -> Any:
    """The program of a call, with its constants."""
    import jax

    return jax.make_jaxpr(lambda *given: call(*given))(*arguments)  # a new function: jax remembers what it has traced


def _random_action(spec: Spec, key: Any) -> Any:
    """A uniform action."""
    import jax
    import jax.numpy as jnp

    if isinstance(spec.action, Discrete):
        return jax.random.randint(key, (), 0, spec.action.n)
    low, high = (np.clip(np.asarray(bound, np.float32), -1e3, 1e3) for bound in (spec.action.low, spec.action.high))
    return jax.random.uniform(key, spec.action_shape, jnp.float32, low, high)


def _check_episode(env: Any, name: str, key: Any) -> None:
    """Play random actions until the longest episode must have ended."""
    import jax
    import jax.numpy as jnp

    length = env.spec.max_episode_steps or _PLAYED_WITHOUT_LIMIT

    def body(state: Any, step_key: Any) -> tuple[Any, Any]:
        state, step = env.step(state, _random_action(env.spec, step_key))
        finite = jnp.isfinite(step.obs).all() & jnp.isfinite(step.reward)
        return state, (finite, step.terminated | step.truncated)

    def play(key: Any) -> Any:
        reset_key, actions_key = jax.random.split(key)
        return jax.lax.scan(body, env.reset(reset_key)[0], jax.random.split(actions_key, length))[1]

    finite, ended = map(np.asarray, jax.jit(play)(key))
    last = int(np.argmax(ended)) if ended.any() else length - 1
    if not finite[: last + 1].all():
        raise ValueError(f"{name}: observation or reward of step {int(np.argmin(finite))} is not a finite number")
    if env.spec.max_episode_steps is not None and not ended.any():
        raise ValueError(f"{name}: an episode has not ended after max_episode_steps, {length}: set truncated then")


def _host_episode(env: gymnasium.Env, name: str, spec: Spec, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations and rewards of an episode of random actions, each checked."""
    env.action_space.seed(seed)
    obs, _ = env.reset(seed=seed)
    observations, rewards = [obs], list[float]()
    length = spec.max_episode_steps or _PLAYED_WITHOUT_LIMIT
    ended = False
    while not ended and len(rewards) < length:
        obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        if not isinstance(reward, (int, float, np.integer, np.floating)) or not np.isfinite(reward):
            raise ValueError(f"{name}.step: reward is {reward!r}: it must be a finite number")
        for flag, value in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(value, (bool, np.bool_)):
                raise ValueError(f"{name}.step: {flag} is {value!r}: it must be a bool")
        if np.issubdtype(np.asarray(obs).dtype, np.floating) and not np.isfinite(obs).all():
            raise ValueError(f"{name}.step: the observation has components that are not finite numbers")
        observations.append(obs)
        rewards.append(float(reward))
        ended = bool(terminated or truncated)
    if spec.max_episode_steps is not None and not ended:
        raise ValueError(f"{name}: an episode has not ended after max_episode_steps, {length}: set truncated then")
    return np.stack(observations), np.array(rewards)


def _check_picture(name: str, picture: Any) -> None:
    """Whether `render` returns a picture."""
    kind = (getattr(picture, "dtype", None), getattr(picture, "ndim", None))
    if kind != (np.uint8, 3) or picture.shape[-1] != 3:
        raise ValueError(f"{name}.render() in mode 'rgb_array' must return uint8 [height, width, 3]")
