"""A study's grid: rows, each a recipe with overrides, times seeds; read from a config."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dynnas_jax import kinds, recipe, sections, settings
from dynnas_jax.reports.study_tables import PLACES
from dynnas_jax.stages import routers

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_ALWAYS = ("train.optimizer",)  # in use though a config leaves them out
_FILLED = ("supernet.image_size", "supernet.depthwise")  # by the images and the machine, where a config leaves them out
_REFERENCE = re.compile(r"\{(\w+)\}")  # in an override: the working directory of that row with the same seed


class Row(NamedTuple):
    """One line of the study: a recipe, run once for each seed."""

    name: str
    recipe: str  # FILE.py:mode, as `--config` takes it
    overrides: tuple[str, ...]  # KEY=VALUE
    tables: dict[str, str]  # name of a table -> what the row is called there
    part: str  # the rows of a part are run together
    seeds: tuple[int, ...]
    stages: tuple[str, ...] | None  # None: all
    bench: bool

    @property
    def needs(self) -> tuple[str, ...]:
        """The rows whose runs its overrides name."""
        return tuple(dict.fromkeys(name for override in self.overrides for name in _REFERENCE.findall(override)))

    def arguments(self, seed: int, folder: Path) -> list[str]:
        """What `dynnas run` is given besides the working directory.

        Args:
          folder: of the study, where its runs are.
        """
        there = functools.partial(_REFERENCE.sub, lambda found: str(run_folder(folder, found[1], seed)))
        overrides = [f"--config.{there(override)}" for override in self.overrides]
        return [f"--config={self.recipe}", *overrides, f"--config.seed={seed}"]

    def config(self, seed: int, folder: Path) -> dict:
        """The config of a run. Raises ValueError, as `dynnas run` with these arguments would, naming the row.

        Files that it names are read in, but for those of a row that needs others: their runs may have to make them first.
        """
        try:
            config = settings.as_dict(settings.load(self.arguments(seed, folder), sections.options))
            return config if self.needs else recipe.with_files(config)
        except ValueError as error:
            raise ValueError(f"row {self.name!r}: {error}") from error

    def stage_names(self, config: dict) -> tuple[str, ...]:
        """The stages that its runs do. Raises ValueError for one that they do not have."""
        known = kinds.of(config).names
        for name in self.stages or ():
            if name not in known:
                raise ValueError(f"row {self.name!r}: unknown stage {name!r}, choose from {', '.join(known)}")
        return tuple(name for name in known if self.stages is None or name in self.stages)


class Grid(NamedTuple):
    """All rows of a study."""

    title: str
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        """The row of a name."""
        return next(row for row in self.rows if row.name == name)

    def runs(self, names: Sequence[str] | None = None) -> list[tuple[Row, int]]:
        """Every run (row, seed) in the order in which they are to be done: part after part, in each seed after seed.

        Runs that another one needs stand before it.

        Args:
          names: of rows, or of parts; only these, and those that they need. None: all.

        Raises:
          ValueError: for an unknown row.
        """
        known = (*(row.name for row in self.rows), *dict.fromkeys(row.part for row in self.rows))
        for name in names or ():
            if name not in known:
                raise ValueError(f"--rows: there is no row or part {name!r}, choose from {', '.join(known)}")
        wanted = [row for row in self.rows if names is None or {row.name, row.part} & set(names)]
        found: dict[tuple[str, int], tuple[Row, int]] = {}

        def add(row: Row, seed: int) -> None:
            for name in row.needs:
                add(self.row(name), seed)
            found.setdefault((row.name, seed), (row, seed))

        for part in dict.fromkeys(row.part for row in wanted):
            mine = [row for row in wanted if row.part == part]
            for seed in dict.fromkeys(seed for row in mine for seed in row.seeds):
                for row in mine:
                    if seed in row.seeds:
                        add(row, seed)
        return list(found.values())


def run_folder(folder: Path, row: str, seed: int) -> Path:
    """The working directory of a run of a study."""
    return folder / "runs" / row / f"seed{seed}"


def read(arguments: list[str]) -> Grid:
    """The grid that `--config=FILE.py[:mode]` describes.

    Raises:
      ValueError: for a config that is no study, an unknown key (the nearest is named), a row that is wrong (named), two rows of
        a name, or a reference to a row that is not there or lacks the seed.
    """
    config = settings.load(arguments).to_dict()
    file = next(Path(a.removeprefix("--config=").split(":")[0]) for a in arguments if a.startswith("--config="))
    if "rows" not in config:
        raise ValueError(f"{file} is no study, it has no rows; is it a recipe, for `dynnas run`?")
    settings.check_options("study", config, settings.parameters(grid))
    return grid(**config, folder=file.parent)


def grid(
    *, rows: Sequence[dict], seeds: Sequence[int] = (0,), title: str = "A study", folder: Path | None = None
) -> Grid:
    """The keys of a study's config.

    Args:
      rows: keyword arguments of `row`, a dict each, in the order of the tables.
      seeds: of every row that does not say otherwise.
      title: of the page.
      folder: where the config is; recipes are looked for there.

    Raises:
      ValueError: as `read`.
    """
    if not isinstance(rows, (tuple, list)) or not rows:
        raise ValueError(f"study.rows is {rows!r}, must be a tuple of dicts, one a row")
    found = []
    for number, given in enumerate(rows):
        settings.check_options(f"rows[{number}]", given, settings.parameters(row, given=("folder", "all_seeds")))
        found.append(row(**given, all_seeds=seeds, folder=folder or Path()))
    names = [each.name for each in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"row {twice[0]!r} is there twice; give each a name of its own")
    if both := [name for name in names if name in {each.part for each in found}]:
        raise ValueError(f"a row and a part are named {both[0]!r}; give one of them another name")
    for each in found:
        _check_references(each, {other.name: other for other in found})
    return Grid(str(title), tuple(found))


def row(
    *,
    name: str,
    recipe: str,
    overrides: Sequence[str] = (),
    tables: dict[str, str] | None = None,
    part: str | None = None,
    seeds: Sequence[int] | None = None,
    stages: Sequence[str] | None = None,
    bench: bool = False,
    all_seeds: Sequence[int],
    folder: Path,
) -> Row:
    """The keys of a row.

    Args:
      name: lower-case letters, digits and underscores; it names folders.
      recipe: FILE.py[:mode], beside the study's config.
      overrides: KEY=VALUE as on the command line. `{ROW}` in a value is the working directory of that row with the same seed.
      tables: for each table that shows the row, what it is called there.
      part: any name; the rows of a part are run together. By default that of the first of `study_tables.PLACES` that shows it.
      seeds: by default the study's.
      stages: by default all that its runs have.
      bench: whether `dynnas bench` measures memory and energy of what it exports.

    Raises:
      ValueError: for a value that cannot be.
    """
    _check_name(name)
    where, tables = f"row {name!r}", dict(tables or {})
    for table in tables:
        if table not in PLACES:
            raise ValueError(f"{where}: unknown table {table!r}, choose from {', '.join(PLACES)}")
    if part is not None and not (isinstance(part, str) and _NAME.fullmatch(part)):
        raise ValueError(
            f"{where}: part is {part!r}; begin with a letter, then lower-case letters, digits, underscores"
        )
    _check_overrides(where, overrides)
    seeds = all_seeds if seeds is None else seeds
    if isinstance(seeds, str) or not seeds or any(type(seed) is not int or seed < 0 for seed in seeds):
        raise ValueError(f"{where}: seeds is {seeds!r}, must be a tuple of whole numbers, 0 or more")
    part = part or next((table for table in PLACES if table in tables), PLACES[0])
    chosen = None if stages is None else tuple(stages)
    given = (str(folder / recipe), tuple(overrides), tables, part, tuple(dict.fromkeys(seeds)), chosen, bool(bench))
    return Row(name, *given)


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"a row is named {name!r}; begin with a letter, then lower-case letters, digits, underscores")
    if name in PLACES:
        raise ValueError(f"a row is named {name!r}, as a table is; give it another name")


def _check_overrides(where: str, overrides: Sequence[str]) -> None:
    if isinstance(overrides, str) or any("=" not in str(override) for override in overrides):
        raise ValueError(f"{where}: overrides is {overrides!r}, must be a tuple of 'KEY=VALUE'")
    if any(override.partition("=")[0] == "seed" for override in overrides):
        raise ValueError(f"{where}: an override sets the seed; a row has its seeds in `seeds`")


def _check_references(row: Row, rows: dict[str, Row], through: tuple[str, ...] = ()) -> None:
    if row.name in through:
        raise ValueError(f"row {row.name!r} needs itself, through {', '.join(through)}")
    for name in row.needs:
        if name not in rows:
            raise ValueError(f"row {row.name!r}: its overrides name {{{name}}}, which is no row")
        if absent := [seed for seed in row.seeds if seed not in rows[name].seeds]:
            raise ValueError(f"row {row.name!r} needs row {name!r}, which is not run with seed {absent[0]}")
        _check_references(rows[name], rows, (*through, row.name))


def settings_of(config: dict) -> dict[str, Any]:
    """Every key of a config that is in use, by its dotted name: as it is set, or the default of the function it configures."""
    known, unused = sections.options(config), sections.unused(config)
    if (further := settings.content(config, "grow").get("further")) is not None:  # what it leaves out is as in `train`
        config = {**config, "grow": {**config["grow"], "further": {**config["train"], **further}}}
    in_use = (*_ALWAYS, f"search.{(config.get('search') or {}).get('strategy')}")
    found = {key: config[key] for key in ("target", "seed")}
    for section, keys in known.items():
        content: Any = functools.reduce(lambda node, key: (node or {}).get(key), section.split("."), config)
        if content is None and section not in in_use:
            continue
        for key, parameter in keys.items():
            default = None if parameter.default is parameter.empty else parameter.default
            value = (content or {}).get(key, default)
            left_out = key not in (content or {}) and f"{section}.{key}" in (*_FILLED, *unused)
            if value is not None and not isinstance(value, dict) and not left_out:
                found[f"{section}.{key}"] = value
    return found | (routers.options_in_use(config) if kinds.of(config) is kinds.SUPERNET else {})


def plain(content: Any) -> Any:
    """As JSON has it: lists for tuples."""
    return json.loads(json.dumps(content, default=list))


def flat(content: Any, name: str = "") -> dict[str, Any]:
    """What a nested dict holds, by dotted names."""
    if not isinstance(content, dict) or not content:
        return {name: content}
    parts = (flat(value, f"{name}.{key}" if name else key) for key, value in content.items())
    return {key: value for part in parts for key, value in part.items()}
