"""`--plugin MODULE`: what is imported, and one line for what cannot be."""

from __future__ import annotations

import sys

import pytest

from agents.registry import registered_rl
from envs.registry import registered_env
from launch.runtime.errors import UsageError
from launch.runtime.flags import parse_train_args
from launch.runtime.plugin import load_plugin


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory; what is imported from it is forgotten afterwards."""
    before, algorithms, environments = set(sys.modules), dict(registered_rl), dict(registered_env)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]
    for registry, content in ((registered_rl, algorithms), (registered_env, environments)):
        registry.clear()
        registry.update(content)


def test_a_plugin_registers_before_names_are_looked_up(folder):
    (folder / "extras_of_mine.py").write_text(
        "from agents.registry import registered_rl\n"
        "from envs.registry import registered_env\n"
        "registered_rl['mine'] = registered_rl['ppo2']\n"
        "registered_env['Mine-v0'] = registered_env['MobileRobotGymEnv-v0']\n"
    )
    args = parse_train_args(["--algo", "mine", "--env=Mine-v0", "--plugin", "extras_of_mine", "--random-target"])
    assert (args.plugin, args.algo, args.env, args.num_cpu) == ("extras_of_mine", "mine", "Mine-v0", 1)


def test_a_module_of_a_package_is_found(folder):
    (folder / "my_package").mkdir()
    (folder / "my_package" / "my_module.py").write_text("LOADED = True\n")
    load_plugin("my_package.my_module")
    assert sys.modules["my_package.my_module"].LOADED


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("not_there", "--plugin=not_there: no module of that name in the working directory or on PYTHONPATH"),
        ("json.not_there", "--plugin=json.not_there: no module of that name"),
        ("good.py", "--plugin=good.py: give a module's name, --plugin=good"),
        ("./a/good.py", "--plugin=./a/good.py: give a module's name, --plugin=a.good"),
        ("..good", "--plugin=..good: give a module's name, --plugin=good"),
        ("--seed", "--plugin needs a value"),
        ("raises", "--plugin=raises cannot be imported: RuntimeError: two lines (raises.py, line 2)"),
        ("misspelt", "--plugin=misspelt cannot be imported: SyntaxError: '(' was never closed (misspelt.py, line 1)"),
        (
            "lacks",
            "--plugin=lacks cannot be imported: ModuleNotFoundError: No module named 'not_there' (lacks.py, line 1)",
        ),
    ],
)
def test_what_cannot_be_imported_is_one_line(folder, name, message):
    (folder / "good.py").write_text("")
    (folder / "raises.py").write_text("def fail():\n    raise RuntimeError('two\\nlines')\n\n\nfail()\n")
    (folder / "misspelt.py").write_text("x = (\n")
    (folder / "lacks.py").write_text("import not_there\n")
    with pytest.raises(UsageError) as caught:
        parse_train_args(["--plugin", name])
    assert message in str(caught.value) and "\n" not in str(caught.value)
