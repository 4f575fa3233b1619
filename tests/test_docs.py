"""The pages keep up with the code: links, Python blocks, config keys and commands in README, docs and the headers of recipes."""

import ast
import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import pytest

from dynnas_jax import __main__, job, networks, recipe, sections, settings
from dynnas_jax.networks import growing
from dynnas_jax.stages import train
from dynnas_jax.study import grid

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RECIPES = sorted((ROOT / "configs").glob("*.py"))
DIGITS = f"--config={ROOT / 'configs' / 'digits.py'}"
FACTS = {"image_shape": [8, 8, 1], "classes": [""] * 10, "mean": [0.3], "std": [0.4]}
SECTION = rf"(?:{'|'.join(settings.SECTIONS)})"


def name(path):
    return str(path.relative_to(ROOT))


@pytest.fixture(params=PAGES, ids=name)
def page(request):
    return request.param


@pytest.fixture(params=[*PAGES, *RECIPES], ids=name)
def text_with_commands(request):
    text = request.param.read_text()
    return text if request.param.suffix == ".md" else f"```\n{ast.get_docstring(ast.parse(text))}\n```"


@pytest.fixture(scope="module")
def known():
    """Every dotted key that a config of some space may hold, sections included."""
    found = {"target", "seed"}
    for network, loader in networks.NETWORKS.items():
        if loader.gated:
            found |= names_in(sections.options({"slimmable": {"network": network}}))
            continue
        if loader.has_space:
            found |= names_in(sections.options({"supernet": {"network": network}}))
            found |= names_in(sections.options({"multi_exit": {"network": network}}))
            found |= names_in(sections.options({"eas": {"network": network}}))
        if network in growing.FAMILIES:
            found |= names_in(sections.options({"growth": {"name": network}}))
        section = "exit_network" if loader.several_exits else "network"
        found |= names_in(sections.options({section: {"name": network}}))
    return found | names_in(sections.options({"cascade": {}}))


def names_in(options):
    return {f"{section}.{key}" for section, keys in options.items() for key in keys} | set(options)


# Links.


def anchors(text):
    """The fragments that lead to the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path, text):
    """The relative links of a page whose file or heading is not there."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.S)):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        file, _, heading = link.partition("#")
        target = (path.parent / file).resolve()
        if not target.exists() or (heading and heading not in anchors(target.read_text() if file else text)):
            broken.append(link)
    return broken


def test_links_lead_somewhere(page):
    assert broken_links(page, page.read_text()) == []


def test_a_broken_link_is_found():
    text = (
        "# One\n[a](docs/gone.md) [b](README.md) ![c](#one) [d](#two) [e](docs/design.md#floors) [f](docs/design.md#x)"
    )
    assert broken_links(ROOT / "README.md", text) == ["docs/gone.md", "#two", "docs/design.md#x"]


def test_every_page_is_reached_from_the_readme():
    links = {(ROOT / link).resolve() for link in re.findall(r"\]\(([^)#\s]+)", (ROOT / "README.md").read_text())}
    assert {page for page in PAGES if page.parent == ROOT / "docs"} <= links
    results = [page for page in PAGES if page.parent == ROOT / "docs" / "results"]
    assert ROOT / "docs" / "results" in links
    assert results


# Python.


def python_blocks(text):
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def missing_imports(tree):
    """What a block imports from the package and is not there."""
    missing = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "dynnas_jax":
            missing += [
                f"{node.module}.{alias.name}" for alias in node.names if not exists(f"{node.module}.{alias.name}")
            ]
    return missing


def exists(dotted):
    """Whether a dotted name is a module of the package or something in one."""
    try:
        pkgutil.resolve_name(dotted)
    except (ImportError, AttributeError):
        return False
    return True


def settle(block):
    """Runs a block that sets parts of a config, or that defines `get_config`, and checks what it makes of the config."""
    if "def get_config" in block:
        scope = {}
        exec(block, scope)
        config = scope["get_config"]()
        if "rows" in config:
            rows = grid.grid(**config.to_dict(), folder=ROOT / "configs").rows
            return [recipe.check(row.config(0, ROOT)) for row in rows]
        return recipe.check(settings.as_dict(config))
    config = settings.load([DIGITS])
    with config.unlocked():
        exec(block, {"config": config})
    config = settings.as_dict(config)
    recipe.check(config)
    space = job.build_supernet(config["supernet"], FACTS).space
    options = (config["train"].get(key) for key in ("sandwich_rule", "joint_rule", "progressive_shrinking"))
    train.rule_and_phases(space, config["train"]["steps"], *options)


def test_python_blocks(page):
    for block in python_blocks(page.read_text()):
        assert missing_imports(ast.parse(block)) == []
        if block.startswith("config.") or "def get_config" in block:
            settle(block)


def test_there_are_python_blocks_of_each_kind():
    blocks = [block for page in PAGES for block in python_blocks(page.read_text())]
    assert [block for block in blocks if block.startswith("config.")]
    assert [block for block in blocks if "def get_config" in block]
    assert [block for block in blocks if "from dynnas_jax" in block]


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("config.train.mixing = {'mixpu': 0.2}", "did you mean 'train.mixing.mixup'"),
        ("config.data.strem = {}", "did you mean 'data.stream'"),
        ("config.train.progressive_shrinking = {'order': ('kernels',)}", "did you mean 'kernel'"),
        (
            "from ml_collections import ConfigDict\ndef get_config():\n  return ConfigDict({'dta': {}})",
            "did you mean 'data'",
        ),
    ],
)
def test_a_wrong_block_is_found(block, said):
    with pytest.raises(ValueError, match=said):
        settle(block)
    wrong = ast.parse("from dynnas_jax.train import lop, loop\nfrom dynnas_jax.gone import x\nfrom numpy import y")
    assert missing_imports(wrong) == ["dynnas_jax.train.lop", "dynnas_jax.gone.x"]


# Names of keys, functions and files in the text.


def unknown_names(text, known):
    """The dotted names of a page that are neither keys of a config nor something in the package, and paths that are not there."""
    given = re.findall(rf"\bconfig\.({SECTION}(?:\.[\w.]*\w)?)\b", text)
    unknown = [key for key in given if key not in known]
    for code in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S)):
        if match := re.match(rf"({SECTION}(?:\.(?!html|msgpack|json)\w+)+)(?: = .*|\(.*)?$", code):
            if match[1] not in known and not exists(f"dynnas_jax.{match[1]}"):
                unknown.append(match[1])
        elif (
            re.match(r"(configs|benchmarks|tests|docs|dynnas_jax|notebooks)/[\w/.]*$", code)
            and not (ROOT / code).exists()
        ):
            unknown.append(code)
    return unknown


def test_names_are_known(page, known):
    assert unknown_names(page.read_text(), known) == []


def test_an_unknown_name_is_found(known):
    text = """`train.stps` `train.steps = 3` --config.data.nmae=x `data.mixing.rule` `train.loop.fitt` `configs/digit.py`
    config.train.mix = {}
    """
    assert unknown_names(text, known) == ["data.nmae", "train.mix", "train.stps", "train.loop.fitt", "configs/digit.py"]


# Commands.


def commands(text):
    """The arguments of every `dynnas` command in code blocks."""
    found = []
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S):
        if re.search(r"^(from|import|config\.)", block, re.M):
            continue
        for line in re.sub(r"\\\n", " ", block).splitlines():
            for part in re.split(r"&&|;", line):
                if match := re.match(r"\s*(?:\w+=\S+ )?dynnas (.*)", part):
                    found.append(shlex.split(re.sub(r"\$\w+", "0", match[1]), comments=True))
    return found


def accept(arguments):
    """Parses a command as `dynnas` does, and loads and checks the config it names, with its overrides; nothing is run."""
    known, rest = __main__.parsed(arguments)
    if known.command not in __main__.WITH_CONFIG:
        return
    given = [argument.replace("--config=configs/", f"--config={ROOT / 'configs'}/") for argument in rest]
    if known.command is __main__._study:
        grid.read(given).runs(known.rows and known.rows.split(","))
        return
    recipe.check(__main__._config(given))
    if getattr(known, "stages", None):
        every = importlib.import_module("dynnas_jax.kinds").KINDS.values()
        assert set(known.stages.split(",")) <= {name for kind in every for name in kind.names}


def test_commands_are_accepted(text_with_commands):
    for arguments in commands(text_with_commands):
        accept(arguments)


def test_every_command_of_dynnas_is_shown():
    shown = {arguments[0] for page in PAGES for arguments in commands(page.read_text())}
    assert shown == set(__main__.COMMANDS)
    assert all(commands(f"```\n{ast.get_docstring(ast.parse(file.read_text()))}\n```") for file in RECIPES)


@pytest.mark.parametrize(
    "line",
    [
        "dynnas cost --networ=mobilenet_v2",
        "dynnas serch --workdir=W",
        "dynnas run --config=configs/digit.py --workdir=W",
        "dynnas run --config=configs/digits.py:huge --workdir=W",
        "pip install x && dynnas run --config=configs/digits.py --config.train.stps=3 --workdir=W  # a comment",
        "dynnas run --config=configs/digits.py --workdir=W --stages=train,serch",
        "dynnas status --workdir=W --all",
        "dynnas study --config=configs/study_digits.py --workdir=W --rows=mian",
    ],
)
def test_a_wrong_command_is_found(line, capsys):
    (arguments,) = commands(f"```\n{line}\n```")
    with pytest.raises((ValueError, SystemExit, AssertionError)):
        accept(arguments)
