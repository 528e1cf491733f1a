"""The documentation against the code: flags and defaults, metrics, constants, commands, links, packages, imports."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from agents.options import declared, options_of
from agents.registry import ActionType, algorithm_class, registered_rl
from agents.types import Clock, Player, Transition
from envs import mobile_arena, omnirobot_arena
from envs.host import car_racing
from envs.host.kuka_button import KukaButtonGymEnv
from envs.make import EnvOptions, device_env, host_factory, host_spec
from envs.registry import BRAX_NAMES, registered_env, registered_twin
from envs.types import Box, Discrete, Spec
from launch.aggregate_plots import aggregate_flags, parse_aggregate_args
from launch.compare_plots import compare_flags, parse_compare_args
from launch.dataset_generator import generator_flags, parse_generator_args
from launch.dataset_tools import parse_tools_args, tools_flags
from launch.enjoy import enjoy_flags, parse_enjoy_args
from launch.enjoy_latent import latent_flags, parse_latent_args
from launch.export import export_flags, parse_export_args
from launch.gather_results import gather_flags, parse_gather_args
from launch.plots import parse_plots_args, plots_flags
from launch.render_scenes import parse_scenes_args
from launch.report import parse_report_args, report_flags
from launch.runtime.errors import HelpRequested
from launch.runtime.experiments.pipeline_flags import parse_pipeline_args, pipeline_flags
from launch.runtime.experiments.search_flags import parse_search_args, search_flags
from launch.runtime.flag_parser import FlagParser
from launch.runtime.flags import common_flags, parse_train_args
from launch.runtime.srl_flags import parse_srl_args
from launch.srl_metrics import metrics_flags, parse_metrics_args
from launch.srl_pipeline import parse_pipeline_args as parse_srl_pipeline_args
from tests.learned import linear_model

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
BUILT_IN = tuple(registered_rl)


def module_of(algo: str) -> str:
    """Where a built-in algorithm is declared."""
    entry = registered_rl[algo][0]
    assert isinstance(entry, str)
    return entry.partition(":")[0]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """The part of a page below a heading, up to the next heading of the same level."""
    level = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert level, f"no heading {title}"
    rest = text[level.end() :]
    end = re.search(rf"^#{{1,{len(level[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text: str) -> dict[str, list[str]]:
    """Table rows whose first cell begins with code: {that code: the other cells}."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            first, *others = (cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|")))
            name = first.split("`")[1]
            assert name not in found, f"{name} has two rows"
            found[name] = others
    return found


def as_number(text: str) -> object:
    """A table's cell as a number, a tuple of numbers, or the text itself."""
    parts = text.strip("()").split(",")
    try:
        numbers = tuple(float(part) for part in parts)
    except ValueError:
        return text
    return numbers if len(numbers) > 1 else numbers[0]


def default_text(default: object) -> object:
    """How a default is written in a table."""
    if default in (None, []):
        return "-"
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return tuple(map(float, default)) if len(default) > 1 else float(default[0])
    return float(default) if isinstance(default, (int, float)) else default


# --- algorithms ------------------------------------------------------------------------------------------------------


def test_every_built_in_algorithm_has_a_page():
    assert sorted(path.stem for path in (DOCS / "algorithms").glob("*.md")) == sorted(BUILT_IN) == sorted(registered_rl)
    readme, command_line = read(ROOT / "README.md"), read(DOCS / "command_line.md")
    for name in BUILT_IN:
        assert f"[`{name}`](docs/algorithms/{name}.md)" in readme and f"[{name}](algorithms/{name}.md)" in command_line


@pytest.mark.parametrize("algo", BUILT_IN)
def test_options_are_documented_with_their_defaults(algo):
    table = rows(section(read(DOCS / "algorithms" / f"{algo}.md"), "Options"))
    options = options_of(*declared(module_of(algo)))
    assert list(table) == [option.flag for option in options]
    for option in options:
        default, swept, search, *_, meaning = table[option.flag]
        assert as_number(default) == default_text(option.default), option.flag
        if option.jax_default is not None:
            assert f"{option.jax_default} with `--simulator=jax`" in meaning, option.flag
        assert swept == ("yes" if option.traced else "no"), option.flag
        if isinstance(option.search, tuple):
            assert tuple(map(float, search.split(" to "))) == option.search, option.flag
        else:
            listed = "all" if option.choices else ", ".join(map(str, option.search or ["-"]))
            assert search == ("-" if option.search is None else listed), option.flag


def logged_metrics(algo: str) -> set[str]:
    """Names of the metrics that an algorithm's update returns."""
    cls = algorithm_class(algo)
    config, hyper = cls.configure({"noise_param": True})  # ddpg's, which adds metrics
    action = Discrete(2) if ActionType.DISCRETE in registered_rl[algo][2] else Box((-1.0,), (1.0,))
    agent = cls.make(Spec("Test-v0", (3,), "float32", action, 8), config)
    key, lead = jax.random.key(0), (agent.traits.rollout_length, agent.traits.num_envs)

    def update() -> dict:
        state = agent.init(key, cls.hyper_tree(hyper))
        obs, flag = jnp.zeros((*lead, 3)), jnp.zeros(lead, bool)
        player = Player(agent)
        action, extras, _ = jax.vmap(lambda o: player.act(state, o, key, True, player.begin(lead[1])))(obs)
        batch = Transition(obs, action, jnp.zeros(lead), flag, flag, obs, extras)
        return agent.update(state, batch, key, cls.hyper_tree(hyper), Clock(jnp.int32(0), jnp.float32(0)))[1]

    return set(jax.eval_shape(update))


@pytest.mark.parametrize("algo", BUILT_IN)
def test_logged_metrics_are_explained(algo):
    text = section(read(DOCS / "algorithms" / f"{algo}.md"), "Metrics")
    cells = re.findall(r"^\| (`train/[^|]*) \|", text, re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`train/(\w+)`", cell)}
    assert named == logged_metrics(algo)


# --- command line ----------------------------------------------------------------------------------------------------


TABLES = [
    ("command_line.md", "Flags of every algorithm", common_flags()),
    ("command_line.md", "Playing a model", enjoy_flags()),
    ("datasets.md", "Recording episodes", generator_flags()),
    ("datasets.md", "Joining datasets, relative positions", tools_flags()),
    ("datasets.md", "Metrics", metrics_flags()),
    ("datasets.md", "Walking through the latent space", latent_flags()),
    ("plots_and_reports.md", "Flags of plots.py", plots_flags()),
    ("plots_and_reports.md", "Flags of aggregate_plots.py", aggregate_flags()),
    ("plots_and_reports.md", "Flags of compare_plots.py", compare_flags()),
    ("plots_and_reports.md", "Flags of gather_results.py", gather_flags()),
    ("plots_and_reports.md", "Flags of report.py", report_flags()),
    ("plots_and_reports.md", "Flags of export.py", export_flags()),
]


@pytest.mark.parametrize(("page", "title", "parser"), TABLES, ids=lambda value: str(value)[:32])
def test_common_flags_are_documented_with_their_defaults(page: str, title: str, parser: FlagParser):
    table = {name: cells for name, cells in rows(section(read(DOCS / page), title)).items() if name[0] == "-"}
    assert list(table) == [parser[name].option.flag for name in parser.names]
    for name in parser.names:
        option = parser[name].option
        assert as_number(table[option.flag][0]) == default_text(option.default), name
    text = read(DOCS / page)
    assert all(spelling in text for name in parser.names for spelling in parser[name].spellings)


@pytest.mark.parametrize(
    ("title", "parser"), [("Pipelines", pipeline_flags()), ("Hyperparameter search", search_flags())]
)
def test_flags_of_experiments_are_documented(title: str, parser: FlagParser):
    table = rows(section(read(DOCS / "experiments.md"), title).partition("### ")[0])
    assert list(table) == [parser[name].option.flag for name in parser.names]
    for name in parser.names:
        default = parser[name].option.default
        assert as_number(table[parser[name].option.flag][0]) == default_text(
            default or (None if default == [] else default)
        )


PARSERS = {
    "launch/pipeline.py": parse_pipeline_args,
    "launch/hyperparam_search.py": parse_search_args,
    "launch/train.py": parse_train_args,
    "launch/enjoy.py": parse_enjoy_args,
    "launch/render_scenes.py": parse_scenes_args,
    "launch/dataset_generator.py": parse_generator_args,
    "launch/dataset_tools.py": parse_tools_args,
    "launch/srl_metrics.py": parse_metrics_args,
    "launch/train_srl.py": parse_srl_args,
    "launch/srl_pipeline.py": parse_srl_pipeline_args,
    "launch/enjoy_latent.py": parse_latent_args,
    "launch/plots.py": parse_plots_args,
    "launch/aggregate_plots.py": parse_aggregate_args,
    "launch/compare_plots.py": parse_compare_args,
    "launch/gather_results.py": parse_gather_args,
    "launch/report.py": parse_report_args,
    "launch/export.py": parse_export_args,
}


def documented_commands() -> list[tuple[Path, list[str]]]:
    """(page, words) of every call of an entry point in the pages, without those that name a plugin."""
    return [
        (page, words)
        for page in PAGES
        for block in re.findall(r"```sh\n(.*?)```", read(page), re.DOTALL)
        for line in block.splitlines()
        if line.startswith("python launch/") and "--plugin" not in line
        for words in [shlex.split(line.replace("<run folder>", "RUN"))[1:]]
    ]


def test_documented_commands_are_valid(tmp_path, monkeypatch):
    commands = documented_commands()
    assert len(commands) > 25
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs" / "pictures" / "curves").mkdir(parents=True)
    linear_model(tmp_path / "logs/srl/MobileRobotGymEnv-v0/autoencoder", "MobileRobotGymEnv-v0", image_size=64)
    for page, (program, *words) in commands:
        if "--resume" in words or (
            {"--launcher=ray", "--rollout-launcher=ray"} & set(words) and find_spec("ray") is None
        ):
            continue
        if "--launcher=slurm" in words and shutil.which("sbatch") is None:
            continue
        if program in ("launch/train_srl.py", "launch/srl_pipeline.py"):
            words.append("--force")  # the model that later commands observe is there already
        parse = PARSERS[program]
        try:
            parse(words)
        except HelpRequested:
            assert "--help" in words
        except ValueError as error:
            pytest.fail(f"{page.name}: {' '.join(words)}: {error}")


def test_the_sheet_of_scenes_is_small():
    assert 10_000 < (DOCS / "pictures" / "scenes.png").stat().st_size < 300_000


def test_the_quick_start_is_two_commands():
    (block,) = re.findall(r"```sh\n(.*?)```", section(read(ROOT / "README.md"), "Quick start"), re.DOTALL)
    assert block.splitlines() == ["make train", "make test"]
    for command, does in (("train", "launch/train.py --algo=ars --continuous"), ("test", "-m pytest")):
        steps = subprocess.run(
            ["make", "--dry-run", "--always-make", command], cwd=ROOT, capture_output=True, text=True
        )
        assert steps.returncode == 0 and does in steps.stdout, steps.stderr
        assert "-m venv" in steps.stdout and "requirements.txt" in steps.stdout


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", read(file), re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
                assert anchor in anchors, f"{page.name}: {target}"


# --- environments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "owner", "names"),
    [
        (
            "KukaButtonGymEnv-v0",
            KukaButtonGymEnv,
            [name for name in vars(KukaButtonGymEnv) if name.isupper() and name != "SCENE_SHAPE"],
        ),
        ("CarRacingGymEnv-v0", car_racing, ["MAX_STEPS", "N_DISCRETE_ACTIONS", "LOOKAHEAD"]),
        ("MobileRobotGymEnv-v0", mobile_arena, ["MAX_STEPS", "STEP_LENGTH", "REWARD_DISTANCE", "TARGET_POSITION"]),
        ("OmnirobotEnv-v0", omnirobot_arena, ["MAX_STEPS", "STEP_LENGTH", "REWARD_DISTANCE", "POSITION_NOISE"]),
    ],
)
def test_constants_are_documented(title, owner, names):
    table = rows(section(read(DOCS / "environments.md"), title))
    constants = {name: as_number(cells[0]) for name, cells in table.items() if name.isupper()}
    assert set(names) <= set(constants)
    for name, value in constants.items():
        assert value == default_text(getattr(owner, name)), name


def test_every_environment_is_documented():
    page, readme = read(DOCS / "environments.md"), read(ROOT / "README.md")
    for name in (*registered_env, *registered_twin):
        assert f"`{name}`" in page and f"`{name}`" in readme
    listed = re.search(r"on the device only: ([\w,\s]+)\. Episodes", page)
    assert listed and tuple(re.split(r",\s+", listed[1])) == BRAX_NAMES


@pytest.fixture
def examples(tmp_path, monkeypatch):
    """A working directory with the page's example modules; what they register and import is forgotten afterwards."""
    code = dict(re.findall(r'```python title="(\w+)\.py"\n(.*?)```', read(DOCS / "environments.md"), re.DOTALL))
    for name, text in code.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    environments, twins = dict(registered_env), dict(registered_twin)
    yield tmp_path
    for registry, before in ((registered_env, environments), (registered_twin, twins)):
        registry.clear()
        registry.update(before)
    for name in code:
        sys.modules.pop(name, None)


def example_commands(plugin: str) -> list[list[str]]:
    """Arguments of the page's calls of `launch/train.py` with a plugin."""
    lines = re.findall(
        rf"^python launch/train.py (--plugin={plugin} .*)$", read(DOCS / "environments.md"), re.MULTILINE
    )
    return [shlex.split(line) for line in lines]


def test_the_example_environment_works(examples):
    (words,) = example_commands("my_arena")
    env = host_factory(EnvOptions.from_args(parse_train_args(words)))()
    for distance, reward in ((0.15, 1.0), (0.3, 0.0)):
        env.reset(seed=0, options={"robot": (2.0, 2.0), "target": (2.1 + distance, 2.0)})
        assert env.step(1)[1] == reward
    env.close()


def test_the_example_twin_works(examples):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_hover.py"]
    path = os.pathsep.join([str(examples), str(ROOT)])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout + done.stderr
    on_host, on_device = (EnvOptions.from_args(parse_train_args(words)) for words in example_commands("hover"))
    assert host_spec(on_host) == device_env(on_device).spec


def test_a_plugins_faulty_twin_is_refused_in_one_line(examples):
    twin = examples / "hover_twin.py"
    twin.write_text(twin.read_text().replace(").astype(jnp.float32)", ")"))
    _, words = example_commands("hover")
    options = EnvOptions.from_args(parse_train_args(words))
    with pytest.raises(ValueError, match=r"^HoverTwin\.step: reward is bool \[\]: it must be float32 \[\]$"):
        device_env(options)


# --- packages and imports --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [path.name for path in sorted(ROOT.glob("requirements*.txt"))])
def test_every_requirement_says_why_it_is_there(name):
    lines = [line.strip() for line in read(ROOT / name).splitlines()]
    packages = [line.split("==")[0] for line in lines if line and line[0] not in "#-"]
    table = rows(section(read(DOCS / "dependencies.md"), name))
    assert sorted(table) == sorted(packages) and packages
    assert all(len(cells[0]) > 10 for cells in table.values())


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether a function imports it when it is called) of every import in a file."""
    tree = ast.parse(read(path))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    return [
        (name, id(node) in inside)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    ]


OWN = ("agents", "envs", "networks", "representations", "launch", "benchmarks", "tests")
ALLOWED = {
    "envs": ("envs",),
    "networks": ("networks",),
    "representations": ("representations", "networks", "envs.types", "launch.runtime.files"),
    "agents": ("agents", "networks", "envs.types"),
}


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package):
    for path in (ROOT / package).rglob("*.py"):
        for module, lazy in imports(path):
            ours = module.split(".")[0] in OWN
            exception = path.name == "base_classes.py" and lazy
            allowed = any(f"{module}.".startswith(f"{name}.") for name in ALLOWED[package])
            assert not ours or allowed or exception, f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize(
    ("folder", "banned"),
    [
        ("host", {"jax", "flax", "optax", "brax"}),
        ("device", {"pybullet", "pybullet_data", "gymnasium"}),
        ("render", {"pybullet", "pybullet_data", "gymnasium"}),
    ],
)
def test_simulators_and_jax_stay_apart(folder, banned):
    for path in (ROOT / "envs" / folder).glob("*.py"):
        found = {module.split(".")[0] for module, _ in imports(path)} & banned
        assert not found, f"{path.name} imports {found}"


def test_the_accelerators_side_loads_without_simulators():
    """What docs/dependencies.md promises, of all that is imported on the way too."""
    folders = ("networks", "agents", "agents/common", "envs/device", "envs/render")
    modules = [f"{folder.replace('/', '.')}.{path.stem}" for folder in folders for path in (ROOT / folder).glob("*.py")]
    program = (
        "import importlib, sys\n"
        "sys.modules.update(dict.fromkeys(('pybullet', 'pybullet_data', 'gymnasium')))\n"
        "for name in sys.argv[1:]: importlib.import_module(name.removesuffix('.__init__'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *modules], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr.splitlines()[-1]
