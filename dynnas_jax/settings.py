"""Reading a config: the file, the overrides on the command line, and the check that every key means something.

A config is an ml-collections ConfigDict from `get_config(mode="")`. Its top-level keys are the stages and what they share; the
keys of each section are keyword arguments of the function the section configures, where their defaults stand.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import placeholder

from dynnas_jax import kinds
from dynnas_jax.errors import first_line

SECTIONS = tuple(dict.fromkeys(name for kind in kinds.KINDS.values() for name in kind.sections))

# What each section may hold, by its dotted name ("train", "train.optimizer"): the parameters its keys fill in.
Options = dict[str, dict[str, inspect.Parameter]]


def load(arguments: list[str], options: Callable[[dict], Options] = lambda _: {}) -> ConfigDict:
    """The config that `--config=FILE.py[:mode]` and `--config.KEY=VALUE` describe.

    Args:
      options: of a config as a dict; a key of theirs may be overridden though the file does not set it.

    Raises:
      ValueError: without a file, for a file that cannot be read or run, an unknown key (the nearest is named), or a value of
        another type.
    """
    path = next((a.removeprefix("--config=") for a in arguments if a.startswith("--config=")), None)
    if path is None:
        raise ValueError("no config given; pass --config=FILE.py, such as configs/digits.py")
    file = Path(path.split(":")[0])
    if not file.is_file():
        raise ValueError(f"--config: there is no file {str(file)!r}")
    config = _run(file, path.partition(":")[2])
    known = functools.cache(lambda: options(as_dict(config)))
    arguments = [argument for argument in arguments if not _left_out(config, argument, known)]
    before = _overridden(config, arguments, known)
    values = flags.FlagValues()
    argv = ["dynnas", *(argument for argument in arguments if argument.startswith("--config."))]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except (flags.Error, TypeError, ValueError) as error:
        raise ValueError(f"--config: {first_line(error)}") from error
    for name, old in before.items():
        _check_items(name, old, operator.attrgetter(name)(config))
    return config


def _check_items(name: str, old: Any, new: Any) -> None:
    """A tuple keeps the type of its items; ml-collections looks at the tuple only."""
    if isinstance(old, tuple) and old:
        allowed = (int, float) if isinstance(old[0], float) else (type(old[0]),)
        if not new or any(type(item) not in allowed for item in new):
            raise ValueError(f"--config.{name}: {new!r}, must be a tuple of {type(old[0]).__name__}s like {old!r}")


def _run(file: Path, mode: str) -> ConfigDict:
    """What the file's `get_config(mode)` returns; its own mistakes become one line."""
    scope: dict = {"__file__": str(file), "__name__": "config"}
    try:
        exec(compile(file.read_text(), str(file), "exec"), scope)
        config = scope["get_config"](mode) if mode else scope["get_config"]()
    except KeyError as error:
        raise ValueError(f"{file}: there is no {error} in it; a config file defines get_config(mode='')") from error
    except (SyntaxError, NameError, AttributeError, ImportError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise ValueError(f"{file}: get_config returned {type(config).__name__}, must be an ml_collections.ConfigDict")
    return config


def _left_out(config: ConfigDict, argument: str, options: Callable[[], Options]) -> bool:
    """Whether this is `--config.KEY=None` of an option that may be None; it then is: ml-collections would look for a number."""
    name, _, value = argument.removeprefix("--config.").partition("=")
    section, _, key = name.rpartition(".")
    if not argument.startswith("--config.") or value != "None":
        return False
    parameter = options().get(section, {}).get(key)
    if parameter is None or parameter.default is not None:
        return False
    node: Any = config
    for inner in section.split("."):
        node = node.get(inner) if isinstance(node, ConfigDict) else None
    if isinstance(node, ConfigDict) and key in node:
        with node.ignore_type():
            node[key] = None
    return True


def _overridden(config: ConfigDict, arguments: list[str], options: Callable[[], Options]) -> dict[str, Any]:
    """The keys that the command line overrides, with their values before; keys the file does not set are put in.

    Raises:
      ValueError: for an unknown key; the nearest is named.
    """
    found = {}
    for argument in arguments:
        if not argument.startswith("--config."):
            continue
        name, equals, _ = argument.removeprefix("--config.").partition("=")
        if not equals:
            raise ValueError(f"--config.{name}: give a value, as --config.{name}=VALUE")
        *sections, key = name.split(".")
        node, path = config, ""
        with config.unlocked():
            for inner in sections:
                path = f"{path}.{inner}" if path else inner
                if _absent(node, inner) and (path in SECTIONS or path in options()):
                    node[inner] = ConfigDict()
                node = _inside(name, node, path, inner, options)
            known = options().get(path, {}).get(key) if isinstance(node, ConfigDict) else None
            if known is not None and key not in node:
                node[key] = _default(name, known)
            elif known is not None and str(known.annotation) == "int | float" and type(node[key]) is int:
                with node.ignore_type():  # ml-collections would take no 0.2 in place of a whole number
                    node[key] = float(node[key])
        found[name] = _inside(name, node, name, key, options)
    return found


def _absent(node: Any, key: str) -> bool:
    return isinstance(node, ConfigDict) and node.get(key) is None


def _inside(name: str, node: Any, path: str, key: str, options: Callable[[], Options]) -> Any:
    """node[key]; ValueError naming the nearest key if there is none. `path` is the dotted name of the key."""
    if isinstance(node, ConfigDict) and key in node:
        return node[key]
    prefix = path[: -len(key)]
    known = [*node, *options().get(prefix[:-1], {})] if isinstance(node, ConfigDict) else []
    if key in known:  # of a kind that no command line gives
        raise ValueError(f"--config.{name}: {path!r} can be set in the config file only")
    raise ValueError(f"--config.{name}: {_unknown(path, [prefix + other for other in known])}")


def _default(name: str, parameter: inspect.Parameter) -> Any:
    """The default of a key the file leaves out, or a placeholder of its type."""
    if parameter.default not in (None, parameter.empty):
        return parameter.default
    annotation = getattr(parameter.annotation, "__name__", str(parameter.annotation))
    for kind in (int, float, str):
        if kind.__name__ in annotation.split(" | "):
            return placeholder(kind)
    if annotation.startswith(("Sequence[", "tuple[")):
        return placeholder(tuple)
    raise ValueError(f"--config.{name}: can be set in the config file only")


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"unknown config key {name!r}" + (f", did you mean {near[0]!r}?" if near else "")


def as_dict(config: ConfigDict) -> dict:
    """The config as nested plain dicts, all sections of its kind of run present.

    Raises:
      ValueError: for a section that does not exist or is of another kind, or one that is missing its content.
    """
    content = config.to_dict()
    for name in content:
        if name not in SECTIONS:
            raise ValueError(_unknown(name, list(SECTIONS)))
    kind = kinds.of(content)
    for name in content:
        if name not in kind.sections:
            raise ValueError(f"config: section {name!r} has no meaning in a run of {kind.words}; leave it out")
    for name in ("data", kind.name):
        if not isinstance(content.get(name), dict):
            raise ValueError(f"config: section {name!r} is missing")
    empty = {"target": "x86", "seed": 0}
    complete = {name: content.get(name, empty.get(name, {})) for name in kind.sections}
    for name, section in complete.items():
        if name not in empty and not isinstance(section, dict):
            raise ValueError(f"config: section {name!r} is {section!r}, must be a dict")
    return complete


def content(config: dict, section: str) -> dict:
    """What a config has of a section, by its dotted name."""
    return functools.reduce(lambda node, key: node.get(key) or {}, section.split("."), config)


def parameters(
    *functions: Callable, also: tuple[str, ...] = (), given: tuple[str, ...] = ()
) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of functions that one section configures.

    Args:
      also: further keys the section has.
      given: parameters that the run fills in itself.
    """
    found = {name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in also}
    for function in functions:
        signature = inspect.signature(function).parameters.values()
        found |= {p.name: p for p in signature if p.kind is p.KEYWORD_ONLY and p.name not in given}
    return found


def check_options(section: str, options: dict, known: dict[str, inspect.Parameter]) -> None:
    """Every key of a section must be one of the parameters `known`, and whole where that is; none without default may lack.

    Raises:
      ValueError: naming the unknown key and the nearest known one, the missing one, or the value that is no whole number; or
        for a section that holds no keys.
    """
    if not isinstance(options, dict):
        raise ValueError(f"config: section {section!r} is {options!r}, must be a dict")
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in options:
            raise ValueError(f"{section}.{key} is missing; give it a value")
    for key, value in options.items():
        if key not in known:
            raise ValueError(_unknown(f"{section}.{key}", [f"{section}.{name}" for name in known]))
        if known[key].annotation in (int, "int") and type(value) is not int:
            raise ValueError(f"{section}.{key} is {value!r}, must be a whole number")


def check_least(prefix: str, options: dict, least: dict[str, float | tuple[float, float]]) -> None:
    """Options that are given and not None must be numbers of at least so much, or between two; else ValueError names them."""
    for key, bounds in least.items():
        value, (low, high) = options.get(key), bounds if isinstance(bounds, tuple) else (bounds, None)
        if value is None:
            continue
        if not isinstance(value, (int, float)) or not value >= low or (high is not None and value > high):
            most = "" if high is None else f" and at most {high}"
            raise ValueError(f"{prefix}{key} is {value!r}, must be a number of at least {low}{most}")
