"""The main job: the stages in order, each skipped when it is complete and resumed when it is not."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynnas_jax import kinds, prerequisites, processes, progress, recipe, redone, sharing
from dynnas_jax.train import agreement
from dynnas_jax.workdir import Stage, Workdir, cache_folder, read_config, read_json

STAGES, NAMES = kinds.SUPERNET.stages, kinds.SUPERNET.names  # of the longest kind of run
# By all processes of a run; the others are the first's alone.
TOGETHER = ("teacher", "train", "gate", "grow", "collect", "predict", "search")
SHARED = ("teacher", "train", "gate", "grow", "collect")  # stages that know which process writes what


def run(config: dict, path: Path, *, names: tuple[str, ...] | None = None, redo: str | None = None) -> None:
    """Does the named stages in order, in `path`; all that runs of its kind have, if none are named.

    A finished stage is left alone; `redo` deletes one stage's artifacts, and those built on them, first.

    Raises:
      ValueError: for an unknown stage or key, a workdir of another config, a damaged artifact, or data that are missing.
    """
    workdir, kind = opened(config, path), kinds.of(config)
    names = kind.names if names is None else names
    for name in (*names, *([] if redo is None else [redo])):
        if name not in kind.names:
            raise ValueError(f"unknown stage {name!r}, choose from {', '.join(kind.names)}")
    if redo and redo not in names:
        raise ValueError(f"--redo={redo}: the stage is not among those to be done; add it to --stages")
    if processes.several():
        _use_compilation_cache()  # JAX asks for it once, before its first program
    sharing.check(workdir)
    prerequisites.check_kind(workdir, kind)
    with redone.until_the_end(workdir, names, redo):
        _carry_out(workdir, names, redo)
    if processes.is_first() and "report" in names:
        _print_summary(path)
    elif processes.is_first() and "export" in names:
        _say_uncompiled(path / "export" / config["target"])


def _carry_out(workdir: Workdir, names: tuple[str, ...], redo: str | None) -> None:
    """Deletes what is to be redone and does what is not done."""
    first = processes.is_first()
    # As the first of several finds it: a network file system may show another an earlier state for a while.
    doomed, todo = agreement.agreed(lambda: _outstanding(workdir, names, redo))
    if todo:
        job = _prepare(workdir, workdir.config, todo)
        prerequisites.check_space(workdir, job, tuple(doomed))
        processes.wait_for_all("prepared")  # before anything that the others look at changes
        if first:
            if deleted := workdir.delete(tuple(doomed)):
                _say(f"deleted {', '.join(deleted)}")
            workdir.claim()
            redone.note(workdir, names, redo)
        _do(workdir, job, todo)
    elif first and not workdir.knows_config():
        workdir.claim()
    processes.wait_for_all("end")


def _outstanding(workdir: Workdir, names: tuple[str, ...], redo: str | None) -> tuple[tuple[str, ...], list[str]]:
    """The stages to be deleted and those to be done."""
    if again := redo is not None and redone.is_done(workdir, names, redo):
        where = redone.file_of(workdir)
        _say(f"--redo={redo} was carried out before the run was preempted or killed, it goes on (else delete {where})")
    doomed, todo = workdir.built_on(redo) if redo and not again else (), []
    for name in kinds.of(workdir.config).names:
        if name in names and not todo and name not in doomed and workdir.complete(name):
            _say(f"{name}: done before")
        elif name in names:
            todo.append(name)
    if todo:
        # What is wrong with the config or the data must come to light before anything is deleted.
        prerequisites.check_inputs(workdir, todo, doomed)
    return doomed, todo


def opened(config: dict, path: Path) -> Workdir:
    """The working directory of a run of this config, with the files that the config names read; nothing is written."""
    config = recipe.with_files(config)
    return Workdir(path, kinds.of(config).stages, config, recipe.sources(config))


def report(path: Path, benches: tuple[Path, ...] = (), rivals: tuple[Path, ...] = ()) -> None:
    """Makes the report of a run anew, from its artifacts alone; the earlier one stays until then.

    Args:
      benches: results of `dynnas bench` to take in.
      rivals: working directories of finished runs, whose measurements on devices are to stand beside this one's.

    Raises:
      ValueError: for no working directory, stages that are not done, a damaged artifact, results of other files or of a name
        that is taken, or a baseline of other test images.
    """
    from dynnas_jax.reports import artifacts, baselines
    from dynnas_jax.reports import benches as measurements
    from dynnas_jax.stages import report as stage

    config = read_config(path)
    workdir = Workdir(path, kinds.of(config).stages, config)
    prerequisites.check_inputs(workdir, ["report"])
    # All are checked before any is written.
    results, measured = measurements.checked(path, benches), baselines.checked(path, rivals)
    measurements.keep(path / measurements.FOLDER, results)
    measurements.keep(path / artifacts.BASELINES, measured)
    folder = workdir.start("report")
    workdir.finish("report", stage.run(None, folder, **workdir.config["report"]))
    _print_summary(path)


def export(path: Path, target: str, *, precisions: tuple[str, ...] = ()) -> None:
    """Exports a run whose evaluation is done for another target than its own, to `export/TARGET`, and makes its report anew.

    For the run's own target it is the stage `export`. What was exported before stays until the new files are checked; files for
    the Edge TPU that its compiler was not there for are made anew where it has come.

    Args:
      precisions: of `metadata.PRECISIONS`; () for the target's own.

    Raises:
      ValueError: for no working directory, an unknown target, stages that are not done, or a file that breaks a promise.
    """
    from dynnas_jax.export import targets

    targets.target(target)
    config, again = read_config(path), _awaits_compiler(path / "export" / target)
    stages, name = kinds.of(config).stages, f"export/{target}"
    if target == config["target"]:
        if precisions:
            raise ValueError(f"{target} is the run's own target: put export.precisions into its config")
        if not again:
            return run(config, path, names=("export",))
        name, workdir = "export", opened(config, path)
    else:
        own = {**config, "target": target, "export": {**config["export"], "precisions": tuple(precisions)}}
        reads = tuple(key for key in stages[kinds.of(config).names.index("export")].reads if key != "target")
        workdir = Workdir(path, (*stages, Stage(name, reads, ("evaluate",))), own, recipe.sources(config))
    prerequisites.check_inputs(workdir, ["export"])
    with contextlib.suppress(ValueError):  # made with other options, from other artifacts, or damaged: made anew
        if not again and workdir.complete(name):
            _say(f"{name}: done before")
            return _say_uncompiled(path / "export" / target)
    _export(workdir, config, name)
    _say(f"{name}: done")
    if Workdir(path, stages, config).complete("export") and (path / "report" / "manifest.json").exists():
        report(path)
    else:
        _say_uncompiled(path / "export" / target)


def _awaits_compiler(folder: Path) -> bool:
    """Whether an export to a target's folder says how to compile it, where the Edge TPU compiler is now at hand."""
    from dynnas_jax.export import edgetpu

    return edgetpu.is_installed() and bool(_compiler_commands(folder))


def _compiler_commands(folder: Path) -> list[str]:
    """What compiles the exports in a folder that the Edge TPU compiler was not there for."""
    with contextlib.suppress(ValueError):  # a damaged one is not this function's to tell
        told = [read_json(file).get("compiler", {}) for file in sorted(folder.rglob("export.json"))]
        return [compiler["command"] for compiler in told if "command" in compiler]
    return []


def _export(workdir: Workdir, config: dict, name: str) -> None:
    """Does the export of `workdir`'s own target, `name` its stage, for a run of `config`."""
    recipe.check(workdir.config)
    run = Workdir(workdir.path, kinds.of(config).stages, config)
    job = _prepare(run, config, ["evaluate"])  # the space is the run's own, whatever the new target asks of one
    prerequisites.check_export_modules(workdir.config)
    if not any((run.folder("export") / file).exists() for file in ("started.json", "manifest.json")):
        run.start("export")  # the folder is a run's from now on
    target = workdir.config["target"]
    files = kinds.of(config).function("export")(
        job._replace(target=target), workdir.folder("export"), **workdir.config["export"]
    )
    workdir.finish(name, files if name == "export" else tuple(file.removeprefix(f"{target}/") for file in files))


def keep_memory() -> None:
    """Lets glibc keep freed memory; works only before JAX starts its threads.

    XLA's CPU backend allocates its temporaries anew every step: mapped and zeroed by the kernel each time, they cost a third of
    a small net's step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        # M_ARENA_MAX (beyond 64 MiB only one shared arena keeps memory), M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        for parameter, value in ((-8, 1), (-3, 2**31 - 1), (-1, 2**31 - 1)):
            mallopt(parameter, value)


def _prepare(workdir: Workdir, config: dict, todo: list[str]) -> Any:
    """The job, or None for the report, which is made from the artifacts alone.

    Raises:
      ValueError: for what is wrong with the config or the data, or an extra that is not installed.
    """
    keep_memory()
    recipe.check(config)
    if "export" in todo:
        prerequisites.check_export_modules(config)
    if todo == ["report"]:
        return None
    _use_compilation_cache()
    from dynnas_jax import job

    prepared = job.prepare(workdir, config)
    for name in todo:
        if check := kinds.of(config).check(name):
            check(prepared, **config.get(name, {}))
    return prepared


def _do(workdir: Workdir, job: Any, todo: list[str]) -> None:
    first = processes.is_first()
    for name in todo:
        if name not in TOGETHER and not processes.part():
            return
        processes.wait_for_all(f"before {name}")
        if agreement.agreed(lambda name=name: workdir.complete(name)):
            _say(f"{name}: done before")
            continue
        _say(f"{name} ...")
        if first:
            workdir.start(name)
        told = progress.of_stage(name, workdir.folder(name))
        with progress.timed(workdir.folder(name)), told, _folder(workdir, name) as folder:
            stage = kinds.of(workdir.config).function(name)
            files = stage(job, folder, **workdir.config.get(name, {}))
        if first:
            workdir.finish(name, files)


@contextlib.contextmanager
def _folder(workdir: Workdir, name: str) -> Iterator[Path]:
    """Where a process writes what a stage makes: the first, and all where they write together, in the working directory."""
    if processes.is_first() or name in SHARED:
        yield workdir.folder(name)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def _use_compilation_cache() -> None:
    """Compiled programs are kept between runs, in JAX_COMPILATION_CACHE_DIR or the user's cache folder."""
    import jax

    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))


def _print_summary(path: Path) -> None:
    from dynnas_jax.reports import artifacts, chapters, tables

    found_artifacts = artifacts.read(path)
    found = found_artifacts.found or {}
    print(tables.text(*chapters.of(found_artifacts.kind).in_short(found_artifacts)))
    if "pair" in found and not found["pair"]["feasible"]:
        pair = found["pair"]
        costs = f"Little costs {pair['little']['macs']} MACs, big {pair['big']['macs']}"
        if "smallest_macs" in found:
            costs = f"Subnets cost {found['smallest_macs']} to {found['largest_macs']} MACs"
        _say(f"no pair meets the target {pair['target']}; the nearest is shown. {costs}")
    for export in found_artifacts.exports.values():
        if losses := tables.lossy_files(export):
            _say(f"{', '.join(losses)} of accuracy against fp32; more export.calibration_images may help")
    _say_uncompiled(path / "export")
    print(f"report: {path / 'report.html'}")


def _say_uncompiled(folder: Path) -> None:
    for command in _compiler_commands(folder):
        _say(f"not compiled for the Edge TPU: the compiler was not here; where it is: {command}")


def _say(line: str) -> None:
    if processes.is_first():
        print(f"dynnas: {line}", flush=True)
