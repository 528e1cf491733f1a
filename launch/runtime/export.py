"""A policy as files that run without this repository.

`policy.jaxexport`: the deterministic policy as a `jax.export` artifact, weights included, for any number of
observations, for CPU, CUDA and TPU. `policy.safetensors` and `policy.py`: its weights, and NumPy code that plays them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agents import ars, cma_es, ddpg, deepq, sac
from agents.base_classes import JaxAlgorithm
from agents.common import normalizer, on_policy
from agents.common.flat_policy import flat_policy
from agents.registry import AlgoType, registered_rl
from envs.types import Box
from launch.runtime import numpy_policy, trees
from launch.runtime.drivers.common import clip_action
from launch.runtime.files import write_atomic

EXPORTED, WEIGHTS, LOADER = "policy.jaxexport", "policy.safetensors", "policy.py"
PLATFORMS = ("cpu", "cuda", "tpu")
_NATURE_STRIDES = (4, 2, 1)
Tensors = dict[str, np.ndarray]
Layers = list[dict[str, Any]]


class NotExportable(ValueError):
    """The policy has a part that `numpy_policy` does not play."""


def export_jax(algorithm: JaxAlgorithm) -> bytes:
    """The deterministic policy as a serialised `jax.export` artifact: observations [n, ...] -> actions [n, ...].

    Actions are within the action's bounds. An agent whose memory decides what it does takes and returns that memory:
    (observations, memory) -> (actions, memory), a tuple of arrays with a row for each observation; an episode begins
    with what `agent.memory` says, for the LSTMs zeros.

    Raises:
        ValueError: There is no policy.
    """
    assert algorithm.agent is not None and algorithm.spec is not None and algorithm.state is not None
    agent, spec, state = algorithm.agent, algorithm.spec, algorithm.state
    player, key = algorithm._player, jax.random.key(0)

    def play(obs: jax.Array, memory: Any) -> tuple[jax.Array, Any]:
        action, _, memory = player.act(state, obs, key, False, memory)
        return clip_action(spec, action), memory

    (count,) = jax.export.symbolic_shape("n")
    obs = jax.ShapeDtypeStruct((count, *spec.obs_shape), np.dtype(spec.obs_dtype))
    if agent.memory is None or not remembers(algorithm):
        program = jax.jit(lambda obs: play(obs, player.begin(obs.shape[0]))[0])
        return bytes(jax.export.export(program, platforms=PLATFORMS)(obs).serialize())
    leaves, structure = jax.tree.flatten(jax.eval_shape(lambda: player.begin(1)))
    memory = tuple(jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype) for leaf in leaves)

    def play_on(obs: jax.Array, memory: tuple[jax.Array, ...]) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        action, after = play(obs, jax.tree.unflatten(structure, memory))  # a plain tuple needs none of our classes
        return action, tuple(jax.tree.leaves(after))

    return bytes(jax.export.export(jax.jit(play_on), platforms=PLATFORMS)(obs, memory).serialize())


def remembers(algorithm: JaxAlgorithm) -> bool:
    """Whether the deterministic policy changes its memory; one that only explores by it does not."""
    assert algorithm.agent is not None and algorithm.spec is not None
    if algorithm.agent.memory is None:
        return False
    player, spec = algorithm._player, algorithm.spec
    memory = player.begin(1)

    def after(memory: Any) -> Any:
        obs = jnp.zeros((1, *spec.obs_shape), spec.obs_dtype)
        assert algorithm.state is not None
        return player.act(algorithm.state, obs, jax.random.key(0), False, memory)[2]

    traced = jax.make_jaxpr(after)(memory).jaxpr
    return list(traced.outvars) != list(traced.invars)


def numpy_layers(algorithm: JaxAlgorithm) -> tuple[Tensors, Layers]:
    """The deterministic policy as tensors and the layers of `numpy_policy.Policy` that they belong to.

    Raises:
        NotExportable: It is no chain of such layers.
    """
    assert algorithm.spec is not None and algorithm.state is not None
    if remembers(algorithm):
        raise NotExportable(f"the policy of {algorithm.name} remembers, which NumPy does not play")
    spec, acting = algorithm.spec, algorithm.state.acting
    config = algorithm.configure(algorithm.info["config"])[0]
    leaves = {name: np.asarray(leaf) for name, leaf in trees.named_leaves(acting).items()}
    chain = _Chain(leaves)
    chain.standardise(acting)
    if isinstance(acting, on_policy.Acting):
        chain.torso("params/params/policy_torso", spec.pixels, config.activation)
        chain.dense("params/params/policy_head/Dense_0")
    elif isinstance(acting, deepq.Acting):  # the advantage alone decides which action is best
        chain.encoder("params/params/encoder", spec.pixels)
        chain.mlp("params/params/MLP_0", "relu")
        chain.dense("params/params/Dense_0")
    elif isinstance(acting, sac.Acting | ddpg.Acting):
        chain.encoder("actor/params/encoder", spec.pixels)
        chain.mlp("actor/params/MLP_0", "relu")
        chain.dense("actor/params/Dense_0")
        chain.layers += [{"kind": "tanh"}, {"kind": "affine", **_bounds(spec.action)}]
    elif isinstance(acting, ars.Acting) and config.policy == "linear":
        chain.layers += [{"kind": "flatten"}, {"kind": "dense", "kernel": chain.take("weights")}]
    elif isinstance(acting, ars.Acting | cma_es.Acting) and not spec.pixels:
        sizes = () if config.policy == "linear" else tuple(config.net_arch)
        chain.leaves |= trees.named_leaves(flat_policy(spec, sizes).params(acting.weights))
        chain.layers.append({"kind": "flatten"})
        chain.mlp("params/MLP_0", "relu")
        chain.dense("params/Dense_0")
    else:
        raise NotExportable(f"the policy of {algorithm.name} is no chain of plain layers")
    chain.layers.append(
        {"kind": "clip", **_bounds(spec.action)} if isinstance(spec.action, Box) else {"kind": "argmax"}
    )
    return chain.tensors, chain.layers


class _Chain:
    """Layers that are appended one after the other, and the tensors that they use.

    Attributes:
        leaves: What there is, by name.
        tensors: What was used of it.
        layers: The layers so far.
    """

    def __init__(self, leaves: Mapping[str, np.ndarray]) -> None:
        self.leaves, self.tensors, self.layers = dict(leaves), {}, []  # type: ignore[var-annotated]

    def take(self, name: str) -> str:
        """Use a tensor; returns its name."""
        if name not in self.leaves:
            raise NotExportable(f"the policy has no {name}: it is no chain of plain layers")
        self.tensors[name] = np.ascontiguousarray(self.leaves[name], np.float32)
        return name

    def standardise(self, acting: Any) -> None:
        """Observation statistics, where there are some."""
        if isinstance(getattr(acting, "stats", ()), normalizer.RunningStats):
            stats = {"mean": self.take("stats/mean"), "var": self.take("stats/var")}
            constants = {"epsilon": normalizer.EPSILON, "clip": normalizer.CLIP}
            self.layers.append({"kind": "standardise", **stats, **constants})

    def dense(self, name: str) -> None:
        """A layer with kernel and bias."""
        kernel, bias = self.take(f"{name}/kernel"), self.take(f"{name}/bias")
        self.layers.append({"kind": "dense", "kernel": kernel, "bias": bias})

    def mlp(self, name: str, activation: str) -> None:
        """All layers of an MLP, each with its activation."""
        others = {leaf for leaf in self.leaves if leaf.startswith(f"{name}/") and "/Dense_" not in leaf}
        if others:
            raise NotExportable(f"the policy has {sorted(others)[0]}: it is no chain of plain layers")
        count = sum(leaf.startswith(f"{name}/Dense_") and leaf.endswith("/kernel") for leaf in self.leaves)
        for number in range(count):
            self.dense(f"{name}/Dense_{number}")
            self.layers.append({"kind": activation})

    def torso(self, name: str, pixels: bool, activation: str) -> None:
        """The torso of an actor-critic."""
        if pixels:
            self.nature(name)
        else:
            self.layers.append({"kind": "flatten"})
            self.mlp(name, activation)

    def encoder(self, name: str, pixels: bool) -> None:
        """The encoder of an off-policy network."""
        if pixels:
            self.nature(f"{name}/NatureCNN_0")
        else:
            self.layers.append({"kind": "flatten"})

    def nature(self, name: str) -> None:
        """The convolutional torso of Mnih et al. (2015)."""
        self.layers.append({"kind": "scale", "factor": 1.0 / 255.0})
        for number, stride in enumerate(_NATURE_STRIDES):
            kernel, bias = (self.take(f"{name}/Conv_{number}/{part}") for part in ("kernel", "bias"))
            self.layers += [{"kind": "conv", "kernel": kernel, "bias": bias, "stride": stride}, {"kind": "relu"}]
        self.layers.append({"kind": "flatten"})
        self.dense(f"{name}/Dense_0")
        self.layers.append({"kind": "relu"})


def _bounds(action: Any) -> dict[str, list[float]]:
    return {"low": list(action.low), "high": list(action.high)}


def write_export(algorithm: JaxAlgorithm, folder: Path) -> tuple[list[Path], str | None]:
    """Write all files of an export.

    Returns:
        (the files, why there are none for NumPy or None).

    Raises:
        ValueError: The learner has no policy to export.
        OSError: They cannot be written.
    """
    from safetensors.numpy import save

    assert algorithm.spec is not None
    if registered_rl[algorithm.name][1] is AlgoType.OTHER:
        raise ValueError(f"{algorithm.name} has learned no policy that could be exported")
    exported = export_jax(algorithm)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / EXPORTED, exported)
    try:
        tensors, layers = numpy_layers(algorithm)
    except NotExportable as reason:
        return [folder / EXPORTED], str(reason)
    spec = algorithm.spec
    said = {
        "algo": algorithm.name,
        "env": spec.id,
        "obs_shape": list(spec.obs_shape),
        "obs_dtype": str(np.dtype(spec.obs_dtype)),
        "layers": layers,
    }
    write_atomic(folder / WEIGHTS, save(tensors, {"policy": json.dumps(said)}))
    shutil.copyfile(numpy_policy.__file__, folder / LOADER)
    return [folder / EXPORTED, folder / WEIGHTS, folder / LOADER], None
