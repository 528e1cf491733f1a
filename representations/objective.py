"""The total loss of a model: encoder, decoder and heads, and the weighted sum of the chosen losses on a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from representations import losses
from representations.encoder import Encoder, EncoderSpec, network_of
from representations.layers import Linear
from representations.loss_flags import DEFAULT_WEIGHTS, Term
from representations.models import make_decoder
from representations.preprocessing import normalise, occlude

Metrics = dict[str, jax.Array]


@dataclass(frozen=True)
class Design:
    """What is trained; hashable.

    Attributes:
        spec: The encoder.
        terms: The losses, with the parts of the state that they see.
        inverse_model: "linear" or "mlp".
        balanced: Whether the episode prior draws partners of the same and of other episodes equally often.
        truth_dim: Components of the true state, for the supervised model.
    """

    spec: EncoderSpec
    terms: tuple[Term, ...]
    inverse_model: str = "linear"
    balanced: bool = False
    truth_dim: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the losses."""
        return tuple(term.name for term in self.terms)


class Hyper(NamedTuple):
    """Traced options: float32 [], or [K] for K runs.

    Attributes:
        learning_rate: Of Adam.
        weights: Weight of each loss, [number of losses].
        beta: Weight of the KL divergence of a VAE.
        occlusion: Largest part of a picture's side that a denoising autoencoder does not see.
        l1: Weight of the sum of absolute weights of the networks.
        l2: Weight of the mean norm of the networks' weight arrays.
    """

    learning_rate: jax.Array
    weights: jax.Array
    beta: jax.Array
    occlusion: jax.Array
    l1: jax.Array
    l2: jax.Array


class Batch(NamedTuple):
    """B transitions.

    Attributes:
        obs: Pictures at time t, uint8 [B, size, size, channels].
        next_obs: Pictures one step later.
        negative: Pictures of other moments of the same episodes, for the triplet loss; empty [0] otherwise.
        action: int32 [B], or float32 [B, A] where actions are continuous.
        reward: float32 [B], of the action.
        episode: Number of the episode, int32 [B].
        truth: True states, float32 [2, B, d], at t and one step later.
    """

    obs: jax.Array
    next_obs: jax.Array
    negative: jax.Array
    action: jax.Array
    reward: jax.Array
    episode: jax.Array
    truth: jax.Array


class Weights(NamedTuple):
    """What is learned.

    Attributes:
        params: Trees of weights by network: "encoder", "decoder" and heads.
        stats: Running statistics of batch normalisation, likewise.
    """

    params: dict[str, Any]
    stats: dict[str, Any]

    def variables(self, name: str) -> dict[str, Any]:
        """The variables of one network, as flax wants them."""
        stats = self.stats.get(name)
        return {"params": self.params[name], **({"batch_stats": stats} if stats else {})}


class MLP(nn.Module):
    """Layers with ReLU between them."""

    sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, inputs] to [B, sizes[-1]]."""
        for size in self.sizes[:-1]:
            x = nn.relu(Linear(size)(x))
        return Linear(self.sizes[-1])(x)


class Objective:
    """The networks of a design and their loss.

    Args:
        design: What is trained.
        action_size: Numbers that describe an action: how many there are, or components of a continuous one.
        perceptual: A trained denoising autoencoder, for the perceptual loss.
    """

    def __init__(self, design: Design, action_size: int, perceptual: Encoder | None = None) -> None:
        self.design, self._action_size, self._perceptual = design, action_size, perceptual
        spec, names = design.spec, design.names
        size = spec.state_dim
        self._networks: dict[str, nn.Module] = {"encoder": network_of(spec)}
        if spec.family in ("autoencoder", "vae"):
            self._networks["decoder"] = make_decoder(spec.model_type, spec.family, spec.image_size, spec.channels)
        hidden = {"linear": (), "mlp": (128, 128)}[design.inverse_model]
        heads = {"forward": (size,), "inverse": (*hidden, action_size), "reward": (16, 16, 2)}
        self._networks |= {name: MLP(sizes) for name, sizes in heads.items() if name in names}
        if "episode-prior" in names:
            self._networks["episode-prior"] = MLP((64, 64, 1))

    def init(self, key: jax.Array) -> Weights:
        """Draw the initial weights."""
        spec, size = self.design.spec, self.design.spec.state_dim
        inputs = {"forward": size + self._action_size, "decoder": size}
        params, stats = {}, {}
        for number, (name, network) in enumerate(self._networks.items()):
            if name == "encoder":
                args: tuple[Any, ...] = (jnp.zeros((2, spec.image_size, spec.image_size, spec.channels)), False)
            elif name == "decoder":
                args = (jnp.zeros((2, size)), False)
            else:
                width = sum(t.stop - t.first for t in self.design.terms if t.name == name) * 2
                args = (jnp.zeros((2, width if name == "episode-prior" else inputs.get(name, 2 * size))),)
            variables: Any = network.init(jax.random.fold_in(key, number), *args)
            params[name] = variables["params"]
            stats[name] = variables.get("batch_stats", {})
        return Weights(params, stats)

    def loss(
        self, weights: Weights, batch: Batch, hyper: Hyper, key: jax.Array, train: bool
    ) -> tuple[jax.Array, tuple[dict[str, Any], Metrics]]:
        """The weighted total, float32 [], with (running statistics, each loss before weighting)."""
        scene = Scene(self, weights, batch, hyper, key, train)
        metrics: Metrics = {}
        total = jnp.float32(0)
        for number, term in enumerate(self.design.terms):
            for name, value, factor in TERMS[term.name](scene, term):
                metrics[name] = value
                total = total + (hyper.weights[number] if factor is None else factor) * value
        arrays = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(weights.params) if not _is_bias(path)]
        # A square root at 0 has no derivative; no array of weights is all zeros for long, but biases may begin there.
        l1 = sum(jnp.sum(jnp.abs(leaf)) for leaf in arrays)
        l2 = sum(jnp.sqrt(jnp.sum(leaf**2) + 1e-20) for leaf in arrays) / len(arrays)
        total = total + hyper.l1 * l1 + hyper.l2 * l2
        return total, (scene.stats, {**metrics, "loss": total})

    def apply(self, weights: Weights, name: str, *args: Any) -> Any:
        """Run a head on its input."""
        return self._networks[name].apply(weights.variables(name), *args)

    def run(self, weights: Weights, name: str, x: jax.Array, train: bool, key: jax.Array) -> tuple[Any, Any]:
        """Run a network that may have running statistics; returns (result, statistics)."""
        rngs = {"dropout": key}
        if not train:
            return self._networks[name].apply(weights.variables(name), x, False, rngs=rngs), weights.stats[name]
        out, new = self._networks[name].apply(weights.variables(name), x, True, rngs=rngs, mutable=["batch_stats"])
        return out, new.get("batch_stats", {})

    def perceive(self, x: jax.Array) -> jax.Array:
        """States of normalised pictures as the frozen autoencoder of the perceptual loss has them."""
        assert self._perceptual is not None
        params = jax.lax.stop_gradient(self._perceptual.params)
        out: Any = network_of(self._perceptual.spec).apply(params, x, False)
        return out


class Scene:
    """What the losses of one batch look at: the pictures, encoded once.

    Attributes:
        objective: The networks.
        weights: What is learned.
        batch: The transitions.
        hyper: Traced options.
        pictures: Normalised, those at t and then those one step later, float32 [2 B, size, size, channels].
        mean: Outputs of the encoder [2 B or more, S].
        log_variance: Likewise, of a VAE.
        states: States at t, [B, S].
        following: States one step later, [B, S].
        others: For the triplet loss the states of the other view and of other moments.
        stats: Running statistics after this batch.
    """

    def __init__(
        self, objective: Objective, weights: Weights, batch: Batch, hyper: Hyper, key: jax.Array, train: bool
    ) -> None:
        self.objective, self.weights, self.batch, self.hyper = objective, weights, batch, hyper
        self.stats = dict(weights.stats)
        self._train, self._keys = train, jax.random.split(key, 5)
        spec, names = objective.design.spec, objective.design.names
        self.size = len(batch.reward)
        frames = [batch.obs[..., : spec.channels], batch.next_obs[..., : spec.channels]]
        if "triplet" in names:
            frames += [batch.obs[..., 3:6], batch.negative[..., : spec.channels]]
        self.pictures = normalise(jnp.concatenate(frames))
        seen = occlude(self.pictures, self._keys[0], hyper.occlusion) if "dae" in names and train else self.pictures
        code, self.stats["encoder"] = objective.run(weights, "encoder", seen, train, self._keys[1])
        self.mean, self.log_variance = code[:, : spec.state_dim], code[:, spec.state_dim :]
        self.states, self.following, *self.others = jnp.split(self.mean, len(frames))
        self.pictures = self.pictures[: 2 * self.size]

    def block(self, term: Term) -> tuple[jax.Array, jax.Array]:
        """The parts of s and s' that a loss sees, [B, its components]."""
        return self.states[:, term.first : term.stop], self.following[:, term.first : term.stop]

    def masked(self, term: Term) -> tuple[jax.Array, jax.Array]:
        """s and s' [B, S] with zeros where a loss does not see them."""
        mask = self.mask(term)
        return self.states * mask, self.following * mask

    def mask(self, term: Term) -> jax.Array:
        """1 for each component of the state that a loss sees, else 0."""
        columns = jnp.arange(self.states.shape[1])
        return ((columns >= term.first) & (columns < term.stop)).astype(jnp.float32)

    def decode(self, term: Term, noisy: bool = False) -> jax.Array:
        """Pictures [2 B, ...] from the states at t and one step later."""
        code = self.mean[: 2 * self.size]
        if noisy and self._train:
            noise = jax.random.normal(self._keys[2], code.shape)
            code = code + noise * jnp.exp(0.5 * self.log_variance[: 2 * self.size])
        keys = self._keys[3]
        out, self.stats["decoder"] = self.objective.run(
            self.weights, "decoder", code * self.mask(term), self._train, keys
        )
        return out

    def head(self, name: str, *parts: jax.Array) -> jax.Array:
        """A head on the concatenation of its inputs."""
        return self.objective.apply(self.weights, name, jnp.concatenate(parts, axis=1))

    def actions(self) -> jax.Array:
        """Actions as vectors: one-hot, or as they are where they are continuous, float32 [B, action size]."""
        action = self.batch.action
        return jax.nn.one_hot(action, self.objective._action_size) if action.ndim == 1 else action

    def partners(self) -> tuple[jax.Array, jax.Array]:
        """For each transition another one of the batch, int32 [B], and whether it is of the same episode, bool [B]."""
        episode = self.batch.episode
        permutation_key, coin_key = jax.random.split(self._keys[4])
        if not self.objective.design.balanced:
            partner = jax.random.permutation(permutation_key, self.size)
        else:
            together = episode[:, None] == episode[None]
            wanted = jax.random.bernoulli(coin_key, 0.5, (self.size, 1)) == together
            # Where no such partner exists, any will do.
            wanted = wanted | ~wanted.any(axis=1, keepdims=True)
            partner = jax.random.categorical(permutation_key, jnp.where(wanted, 0.0, -jnp.inf), axis=1)
        return partner, episode == episode[partner]


Parts = list[tuple[str, jax.Array, Any]]  # (name, value, weight; None for that of the loss)


def _autoencoder(scene: Scene, term: Term) -> Parts:
    """The mean squared error of both pictures, summed; a denoising one has not seen all of them."""
    return [("reconstruction_loss", 2.0 * losses.mse(scene.decode(term), scene.pictures), None)]


def _vae(scene: Scene, term: Term) -> Parts:
    """Squared error (or that of what a frozen encoder sees) and KL divergence, both summed over the batch."""
    decoded = scene.decode(term, noisy=True)
    columns = slice(term.first, term.stop)
    mean, log_variance = (x[: 2 * scene.size, columns] for x in (scene.mean, scene.log_variance))
    kl = ("kl_loss", losses.kl_to_standard_normal(mean, log_variance), scene.hyper.beta)
    names = scene.objective.design.names
    if "perceptual" not in names:
        return [("generation_loss", losses.sse(decoded, scene.pictures), None), kl]
    perceive = scene.objective.perceive
    value = losses.sse(perceive(decoded), perceive(scene.pictures))
    return [("perceptual_loss", value, scene.hyper.weights[names.index("perceptual")]), kl]


def _forward(scene: Scene, term: Term) -> Parts:
    """Squared error of s + W [s, a] as a prediction of s'; the gradient flows into s' too."""
    states, following = scene.masked(term)
    guess = states + scene.head("forward", states, scene.actions()) * scene.mask(term)
    value = losses.mse(guess[:, term.first : term.stop], following[:, term.first : term.stop])
    return [("forward_loss", value, None)]


def _inverse(scene: Scene, term: Term) -> Parts:
    """Which action led from s to s': cross-entropy, or squared error where actions are continuous."""
    guess = scene.head("inverse", *scene.masked(term))
    action = scene.batch.action
    value = losses.cross_entropy(guess, action) if action.ndim == 1 else losses.mse(guess, action)
    return [("inverse_loss", value, None)]


def _reward(scene: Scene, term: Term) -> Parts:
    """Whether the reward of going from s to s' was positive: cross-entropy."""
    labels = (scene.batch.reward > 0).astype(jnp.int32)
    return [("reward_loss", losses.cross_entropy(scene.head("reward", *scene.masked(term)), labels), None)]


def _priors(scene: Scene, term: Term) -> Parts:
    """The four robotic priors, each with the weight."""
    states, following = scene.block(term)
    same, dissimilar = losses.pairs(scene.batch.action, scene.batch.reward)
    return [
        ("temp_coherence_loss", losses.temporal_coherence(states, following), None),
        ("causality_loss", losses.causality(states, dissimilar), None),
        ("proportionality_loss", losses.proportionality(states, following, same), None),
        ("repeatability_loss", losses.repeatability(states, following, same), None),
    ]


def _reward_prior(scene: Scene, term: Term) -> Parts:
    """Correlation of the state with the reward."""
    return [("reward_prior", losses.reward_prior(scene.block(term)[0], scene.batch.reward), None)]


def _episode_prior(scene: Scene, term: Term) -> Parts:
    """A discriminator tells whether two states are of one episode; the encoder learns that it cannot."""
    partner, together = scene.partners()
    states = losses.reverse_gradient(scene.block(term)[0])
    logits = scene.head("episode-prior", states, states[partner])[:, 0]
    return [("episode_prior", losses.binary_cross_entropy(logits, together), None)]


def _triplet(scene: Scene, term: Term) -> Parts:
    """Both views of a moment near each other, another moment far away."""
    return [("triplet_loss", losses.triplet(scene.states, *scene.others), None)]


def _supervised(scene: Scene, term: Term) -> Parts:
    """Squared error of the true state."""
    now, later = scene.batch.truth
    value = 0.5 * (losses.mse(scene.states, now) + losses.mse(scene.following, later))
    return [("supervised_loss", value, None)]


def _nothing(scene: Scene, term: Term) -> Parts:
    """No loss of its own."""
    return []


TERMS: dict[str, Callable[[Scene, Term], Parts]] = {
    "autoencoder": _autoencoder,
    "dae": _autoencoder,
    "vae": _vae,
    "perceptual": _nothing,
    "forward": _forward,
    "inverse": _inverse,
    "reward": _reward,
    "priors": _priors,
    "reward-prior": _reward_prior,
    "episode-prior": _episode_prior,
    "triplet": _triplet,
    "supervised": _supervised,
    "random": _nothing,
}


def register_loss(name: str, weight: float, function: Callable[[Scene, Term], Parts]) -> None:
    """Add a loss of one's own to those of `--losses`.

    Args:
        name: Its name.
        weight: Unless `--losses name:weight` gives another.
        function: (scene, term) -> [(name of a metric, value float32 [], None)], to be minimised; `scene.block(term)`
            gives the parts of s and s' that it sees.

    Raises:
        ValueError: the name is taken.
    """
    if name in TERMS or ":" in name:
        raise ValueError(f"the loss '{name}' cannot be registered: the name is taken, or has a colon")
    DEFAULT_WEIGHTS[name] = weight
    TERMS[name] = function


def _is_bias(path: Any) -> bool:
    return jax.tree_util.keystr(path, simple=True, separator="/").endswith("/bias")
