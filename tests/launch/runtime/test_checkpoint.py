"""Checkpoints: bit-exact for every type of leaf, and always one usable, whatever happens to the newest."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from launch.runtime.checkpoint import Checkpointer, CheckpointError

ROOT = Path(__file__).parents[3]


class Leaves(NamedTuple):
    params: Any
    extra: Any


def rich_tree(seed: int) -> Leaves:
    """A leaf of every kind that a run holds; other values for other seeds."""
    rng = np.random.default_rng(seed)
    bits = np.array([0x7FC00001, 0x80000000, 0xFF800000, seed], np.uint32).view(np.float32)  # NaN payload, -0, -inf
    params = {
        "w": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32),
        "special": jnp.asarray(bits),
        "half": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
        "picture": jnp.asarray(rng.integers(0, 256, (2, 4, 4, 3)), jnp.uint8),
        "count": jnp.int32(seed),
        "flag": jnp.array([True, False, bool(seed % 2)]),
        "none_yet": jnp.zeros((0, 7), jnp.float32),
        "key": jax.random.key(seed),
        "keys": jax.random.split(jax.random.key(seed, impl="rbg"), (2, 3)),
        "raw_key": jax.random.PRNGKey(seed),
    }
    host = [np.arange(6).astype(ml_dtypes.float8_e4m3fn), rng.normal(size=(4, 6))[::2]]
    host += [np.float64(rng.normal()), np.array(seed, np.uint16), seed, 0.1 * seed, True]
    return Leaves(params, (host, (), {"empty": {}, "nothing": None}))


def assert_bit_equal(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert type(a) is type(b)
        if isinstance(b, jax.Array) and jax.dtypes.issubdtype(b.dtype, jax.dtypes.prng_key):
            assert jax.random.key_impl(a) == jax.random.key_impl(b)
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()


def test_every_leaf_comes_back_bit_exact(tmp_path: Path) -> None:
    metadata = {"step": 2**40, "rates": [0.1, 1e-300], "text": "ä", "nothing": None, "nested": {"a": True}}
    Checkpointer(tmp_path).save(7, rich_tree(1), metadata)
    tree, read = Checkpointer(tmp_path).restore(rich_tree(2))
    assert_bit_equal(tree, rich_tree(1))
    assert read == metadata
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["7"]


def test_shardings_and_placement_follow_the_template(tmp_path: Path) -> None:
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("run",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("run"))
    template = {"sharded": jax.device_put(jnp.arange(4.0), sharding), "free": jnp.arange(3)}
    template["keys"] = jax.device_put(jax.random.split(jax.random.key(0), 4), sharding)
    Checkpointer(tmp_path).save(0, template, {})
    tree, _ = Checkpointer(tmp_path).restore(template)
    for name, leaf in template.items():
        assert tree[name].sharding == leaf.sharding
        assert tree[name].committed == leaf.committed


def test_arrays_may_be_donated_right_after_save_and_restore(tmp_path: Path) -> None:
    advance = jax.jit(lambda tree: jax.tree.map(lambda x: x * 2 + 1, tree), donate_argnums=0)
    checkpointer = Checkpointer(tmp_path)
    state = {"a": jnp.arange(1000.0), "b": jnp.ones((64, 64))}
    expected = jax.tree.map(np.array, state)
    checkpointer.save(1, state, {})
    after = jax.tree.map(np.array, advance(state))
    restored, _ = checkpointer.restore({"a": jnp.zeros(1000), "b": jnp.zeros((64, 64))})
    assert_bit_equal(jax.tree.map(np.array, restored), expected)
    assert_bit_equal(jax.tree.map(np.array, advance(restored)), after)
    again, _ = checkpointer.restore({"a": jnp.zeros(1000), "b": jnp.zeros((64, 64))})
    assert_bit_equal(jax.tree.map(np.array, again), expected)


def test_only_the_newest_are_kept_and_an_abandoned_future_is_dropped(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, keep=2)
    for iteration in (1, 2, 30, 40):
        checkpointer.save(iteration, {"x": np.arange(iteration)}, {})
    assert checkpointer.iterations() == [30, 40]
    checkpointer.save(35, {"x": np.arange(35)}, {})
    assert checkpointer.iterations() == [30, 35]
    checkpointer.save(35, {"x": np.arange(5)}, {"again": True})
    tree, metadata = checkpointer.restore({"x": np.zeros(5, int)})
    assert metadata == {"again": True} and tree["x"].tolist() == [0, 1, 2, 3, 4]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["30", "35"]


def change_a_value(folder: Path) -> None:
    """Flip one bit among the values: orbax itself would read it back without complaint."""
    path = max(folder.glob("**/d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(content)


def change_the_metadata(folder: Path) -> None:
    path = folder / "seal.json"
    text = path.read_text()
    assert '"n": 2' in text
    path.write_text(text.replace('"n": 2', '"n": 3'))


def truncate_data(folder: Path) -> None:
    for path in folder.glob("**/d/*"):
        os.truncate(path, path.stat().st_size // 2)


def remove_manifest(folder: Path) -> None:
    (folder / "manifest.ocdbt").unlink()


def truncate_seal(folder: Path) -> None:
    os.truncate(folder / "seal.json", 40)


def remove_seal(folder: Path) -> None:
    (folder / "seal.json").unlink()


def empty_folder(folder: Path) -> None:
    for path in sorted(folder.glob("**/*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


DAMAGES = [
    change_a_value, change_the_metadata, truncate_data, remove_manifest, truncate_seal, remove_seal, empty_folder
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_damaged_newest_falls_back_with_a_warning(tmp_path: Path, damage: Any, capfd: Any) -> None:
    checkpointer = Checkpointer(tmp_path)
    trees = {n: {"x": np.random.default_rng(n).random(50_000)} for n in (1, 2, 3)}
    for iteration in (1, 2):
        checkpointer.save(iteration, trees[iteration], {"n": iteration})
    damage(checkpointer.folder / "2")
    tree, metadata = checkpointer.restore(trees[3])
    assert_bit_equal(tree, trees[1])
    assert metadata == {"n": 1}
    gc.collect()  # asyncio reports forgotten errors when they are collected
    printed = capfd.readouterr()
    assert printed.err.startswith("warning: checkpoint 2 in ") and printed.err.count("\n") == 1
    assert printed.out == ""
    checkpointer.save(3, trees[3], {})  # the damaged one must not take the place of a usable one
    assert checkpointer.iterations() == [1, 3]
    for iteration in (1, 3):
        empty_folder(checkpointer.folder / str(iteration))
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read") as error:
        Checkpointer(tmp_path).restore(trees[3])
    assert "\n" not in str(error.value)


def test_no_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no checkpoint in") as error:
        Checkpointer(tmp_path).restore({})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"a": {"w": np.zeros((3, 5), np.float32)}}, r"'a/w' is float32\[3,4\] there and float32\[3,5\] here"),
        ({"a": {"w": np.zeros((3, 4), np.int32)}}, r"'a/w' is float32\[3,4\] there and int32\[3,4\] here"),
        ({"a": {"v": np.zeros((3, 4), np.float32)}}, "has no 'a/v'"),
        ({"a": {}}, "has 'a/w', which is not wanted"),
    ],
)
def test_other_tree_names_the_leaf(tmp_path: Path, template: Any, message: str) -> None:
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, {"a": {"w": np.zeros((3, 4), np.float32)}}, {})
    with pytest.raises(ValueError, match=message):
        checkpointer.restore(template)


def check_failed_save(checkpointer: Checkpointer, free: Any, capfd: Any) -> None:
    """A save of 4 MB fails in one line, the small one before it is still there, and saving works again after."""
    small, large = {"x": np.arange(100.0)}, {"x": np.random.default_rng(0).random(500_000)}
    checkpointer.save(1, small, {"n": 1})
    free(False)
    with pytest.raises(
        CheckpointError, match=r"cannot save checkpoint 2 in .*: (No space left|File too large)"
    ) as error:
        checkpointer.save(2, large, {"n": 2})
    assert isinstance(error.value, OSError) and "\n" not in str(error.value)
    assert [path.name for path in checkpointer.folder.iterdir()] == ["1"]
    tree, metadata = checkpointer.restore({"x": np.zeros(100)})
    assert_bit_equal(tree, small)
    assert metadata == {"n": 1}
    free(True)
    checkpointer.save(3, small, {"n": 3})
    assert checkpointer.iterations() == [1, 3]
    gc.collect()  # asyncio reports forgotten errors when they are collected
    assert capfd.readouterr().err == ""


def test_file_size_limit_leaves_the_previous_checkpoint(tmp_path: Path, capfd: Any) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def free(yes: bool) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if yes else 100_000, hard))

    try:
        check_failed_save(Checkpointer(tmp_path), free, capfd)
    finally:
        free(True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB; skips where it cannot be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_full_disk_leaves_the_previous_checkpoint(small_disk: Path, capfd: Any) -> None:
    check_failed_save(Checkpointer(small_disk), lambda yes: None, capfd)


def test_disk_without_a_free_byte_leaves_the_previous_checkpoint(small_disk: Path, capfd: Any) -> None:
    filler = small_disk / "filler"

    def free(yes: bool) -> None:
        filler.unlink(missing_ok=True)
        if not yes:
            with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)

    check_failed_save(Checkpointer(small_disk), free, capfd)


WRITER = """
import sys
import numpy as np
from launch.runtime.checkpoint import Checkpointer
checkpointer = Checkpointer(sys.argv[1])
for n in range(1, 10**6):
    checkpointer.save(n, {"x": np.full(300_000, n, np.int64), "y": np.arange(n)}, {"n": n})
    print(n, flush=True)
"""


def test_kill_at_any_moment_leaves_a_usable_checkpoint(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for attempt in range(2):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, cwd=ROOT, text=True
        )
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first == "1\n"
        time.sleep(rng.uniform(0.0, 0.2))
        process.send_signal(signal.SIGKILL)
        saved = [1, *map(int, process.stdout.read().split())][-1]
        process.wait()
        checkpointer = Checkpointer(folder)
        newest = checkpointer.iterations()[-1]
        assert newest in (saved, saved + 1)
        tree, metadata = checkpointer.restore({"x": np.zeros(300_000, np.int64), "y": np.arange(newest)})
        assert metadata == {"n": newest}
        assert (tree["x"] == newest).all()
        checkpointer.save(newest + 1, {"x": np.zeros(3)}, {})
        names = sorted(path.name for path in checkpointer.folder.iterdir())
        assert names == sorted([str(newest), str(newest + 1)])  # nothing of the killed save is left


def test_small_tree_takes_no_time_worth_naming(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    tree = {str(n): jnp.ones((64, 64)) for n in range(20)}
    times = []
    for iteration in range(4):
        start = time.perf_counter()
        checkpointer.save(iteration, tree, {})
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5
