"""Runs that the tests of launch/enjoy.py play, trained once for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch.play import CARTPOLE, MOBILE, trained


@pytest.fixture
def headless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No display, even where the machine has one."""
    monkeypatch.delenv("DISPLAY", raising=False)


@pytest.fixture(scope="session")
def mobile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two seeds in the twin of the mobile robot; tests that write into it take a copy."""
    flags = ("--simulator=jax", "--random-target", "--num-seeds=2", "--num-cpu=8", "--n-steps=64")
    return trained(tmp_path_factory.mktemp("mobile"), f"--env={MOBILE}", "--num-timesteps=600", *flags)


@pytest.fixture(scope="session")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in Gymnasium's CartPole; tests that write into it take a copy."""
    flags = (f"--env={CARTPOLE}", "--num-timesteps=128", "--num-cpu=2", "--n-steps=32")
    return trained(tmp_path_factory.mktemp("cartpole"), *flags)
