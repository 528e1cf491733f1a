"""What an environment tells the rest of the toolbox. Light: NumPy only, so that workers never load jax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Discrete:
    """Actions are the integers 0 ... n-1 (int32)."""

    n: int


@dataclass(frozen=True)
class Box:
    """Actions are float32 vectors between `low` and `high` (one bound per component, in action units)."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def size(self) -> int:
        """Number of action components."""
        return len(self.low)


@dataclass(frozen=True)
class Spec:
    """Static description of an environment; hashable, so it can be a static argument of jitted code.

    Attributes:
        id: Environment id as the user typed it.
        obs_shape: Shape of one observation; pictures are (height, width, channels).
        obs_dtype: "uint8" for pictures, "float32" for states.
        action: The action space.
        max_episode_steps: Longest episode in environment steps; None where the environment has no limit.
    """

    id: str
    obs_shape: tuple[int, ...]
    obs_dtype: str
    action: Discrete | Box
    max_episode_steps: int | None = None

    @property
    def pixels(self) -> bool:
        """Whether an observation is a picture."""
        return self.obs_dtype == "uint8" and len(self.obs_shape) == 3

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one action: () when discrete, (size,) when continuous."""
        return () if isinstance(self.action, Discrete) else (self.action.size,)

    @property
    def action_dtype(self) -> str:
        """dtype of an action as drivers store it."""
        return "int32" if isinstance(self.action, Discrete) else "float32"


class Encoding(NamedTuple):
    """A learned representation as environments use it; whoever makes one hands it in.

    Attributes:
        encode: Pictures uint8 [..., height, width, channels] -> states float32 [..., state_dim]; a pure JAX function.
        state_dim: Components of a state.
    """

    encode: Callable[[Any], Any]
    state_dim: int


class TimeStep(NamedTuple):
    """What one step of a device environment returns (no leading axis; batched ones lead with [N]).

    `terminated`: the task ended (a death or a success); `truncated`: a time limit cut the episode. Never merged.
    """

    obs: Any
    reward: Any  # float32 []
    terminated: Any  # bool []
    truncated: Any  # bool []


def relative_to(position: Any, target: Any) -> Any:
    """A position [n] (m) relative to a target [m] (m) on its first m <= n axes; on the others it is left as it is."""
    relative = position.copy()
    relative[: len(target)] -= target
    return relative
