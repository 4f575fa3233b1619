"""The command line. What a user can get wrong ends in one plain line and exit code 2."""

from __future__ import annotations

import argparse
import errno
import json
import os
import select
import signal
import sys
from pathlib import Path

from dynnas_jax import command_line
from dynnas_jax.train import preemption


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; exits with 2 after a mistake of the user's. DYNNAS_TRACEBACK=1 shows where it was noticed."""
    known, rest = parsed(sys.argv[1:] if arguments is None else arguments)
    try:
        known.command(known, rest)
        sys.stdout.flush()
    except preemption.Preempted as ended:
        print(f"dynnas: {ended}", file=sys.stderr)
        sys.exit(ended.code)
    except (ValueError, OSError, MemoryError) as error:
        if isinstance(error, BrokenPipeError) and _reader_left():
            sys.exit(128 + signal.SIGPIPE)
        if os.environ.get("DYNNAS_TRACEBACK"):
            raise
        print(f"dynnas: {_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("dynnas: interrupted; the same command, without --redo, goes on where this one stopped", file=sys.stderr)
        sys.exit(130)


def parsed(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """What the arguments say, `command` among it, and those about a config. Ends the process where they cannot be read."""
    parser = command_line.parser(__doc__, COMMANDS)
    known, rest = parser.parse_known_args(arguments)
    if rest and known.command not in WITH_CONFIG:
        parser.error(f"unknown argument {rest[0]!r}")
    return known, rest


def _reader_left() -> bool:
    """Whether who reads what is printed, `head` for one, has enough; what is still to be printed goes nowhere then."""
    watch = select.poll()
    watch.register(sys.stdout.fileno(), 0)
    left = any(event & select.POLLERR for _, event in watch.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python's own last flush goes there
    return left


def _line(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return " ".join(["there is not enough memory", *str(error).split()])
    text = str(error).strip() or type(error).__name__
    # Checkpoints and records meet a full disk in tensorstore, which knows no errno.
    if os.strerror(errno.ENOSPC) in text or getattr(error, "errno", None) == errno.ENOSPC:
        where = f" for {error.filename}" if getattr(error, "filename", None) else ""
        return f"no space left on the disk{where}; what was complete is kept"
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    return " ".join(text.split())


def _run(known: argparse.Namespace, rest: list[str]) -> None:
    from dynnas_jax import pipeline, processes

    names = tuple(known.stages.split(",")) if known.stages is not None else None
    group = (known.coordinator, known.processes, known.process)
    if known.distributed or any(value is not None for value in group):
        pipeline.keep_memory()  # before JAX starts its threads
        processes.join(*group)
    with preemption.at_once():
        pipeline.run(_config(rest), known.workdir, names=names, redo=known.redo)


def _study(known: argparse.Namespace, rest: list[str]) -> None:
    from dynnas_jax.study import command

    rows = tuple(known.rows.split(",")) if known.rows is not None else None
    take = tuple(map(Path, known.take.split(","))) if known.take else ()
    given = {"rows": rows, "max_minutes": known.max_minutes, "table": known.table, "take": take}
    command.run(_of_config(rest), known.workdir, **given)


def _augment(known: argparse.Namespace, rest: list[str]) -> None:
    from dynnas_jax import job, recipe

    if known.output.suffix != ".png":
        raise ValueError(f"--output={known.output}: the page is a picture, give a name that ends in .png")
    config = _config(rest)
    recipe.check(config)
    job.show_augmentations(config, known.output)
    print(f"page: {known.output}")


def _config(rest: list[str]) -> dict:
    """The config that the arguments left over describe."""
    from dynnas_jax import sections, settings

    return settings.as_dict(settings.load(_of_config(rest), sections.options))


def _of_config(rest: list[str]) -> list[str]:
    """The arguments left over, which must all be about a config."""
    if "--config" in rest[:-1]:
        place = rest.index("--config")
        rest[place : place + 2] = [f"--config={rest[place + 1]}"]
    for argument in rest:
        if not argument.startswith(("--config=", "--config.")):
            raise ValueError(f"unknown argument {argument!r}")
    return rest


def _cost(known: argparse.Namespace, _: list[str]) -> None:
    from dynnas_jax import counting

    content = None
    if known.arch is not None:
        try:
            content = json.loads(known.arch.read_text())
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{known.arch} is not JSON ({error})") from error
    print(json.dumps(counting.cost(known.network, known.workdir, content, known.exit_rate)))


def _search(known: argparse.Namespace, _: list[str]) -> None:
    from dynnas_jax.stages import search

    asked = {name: getattr(known, name) for name in ("max_macs", "max_latency_ms", "target", "table", "pair", "omega")}
    print(json.dumps(search.best(known.workdir, **asked), indent=1))


def _table(known: argparse.Namespace, rest: list[str]) -> None:
    from dynnas_jax import recipe
    from dynnas_jax.stages import table

    config = _config(rest)
    recipe.check(config)
    asked = {name: getattr(known, name) for name in ("runtime", "threads", "nets", "rounds") if hasattr(known, name)}
    built = table.build(
        config, known.output, target=known.target or config["target"], precision=known.precision, **asked
    )
    print(f"table: {known.output} ({len(built.rows)} blocks, overhead {built.overhead_ms:.4f} ms)")


def _export(known: argparse.Namespace, _: list[str]) -> None:
    from dynnas_jax import pipeline

    pipeline.export(
        known.workdir, known.target, precisions=tuple(known.precisions.split(",")) if known.precisions else ()
    )


def _specialize(known: argparse.Namespace, _: list[str]) -> None:
    from dynnas_jax.stages import superclass_specialize

    names = ("superclass", "max_macs", "max_latency_ms", "quick_evaluation", "target", "name")
    asked = {name: getattr(known, name) for name in names}
    precisions = tuple(known.precisions.split(",")) if known.precisions else ()
    print(json.dumps(superclass_specialize.specialize(known.workdir, **asked, precisions=precisions), indent=1))


def _lint(known: argparse.Namespace, _: list[str]) -> None:
    from dynnas_jax.export import edgetpu, lint

    if known.compile and known.target != "edgetpu":
        raise ValueError(f"--compile is of the Edge TPU's compiler; target {known.target} has none")
    found = lint.lint(known.files, known.target)
    print(found.text())
    found.insist()
    if known.target == "edgetpu":
        print(edgetpu.compiled_or_command(known.files, must=known.compile))


def _bench(known: argparse.Namespace, _: list[str]) -> None:
    from dynnas_jax.costs import energy
    from dynnas_jax.export import bench_command, runtime

    if known.path.suffix == ".json":
        bench_command.import_log(known, known.path, energy)
    else:
        bench_command.run(known, lambda: runtime.open_as(known, known.path), energy)


def _report(known: argparse.Namespace, _: list[str]) -> None:
    from dynnas_jax import pipeline

    baselines = tuple(Path(path) for path in known.baselines.split(",")) if known.baselines else ()
    pipeline.report(known.workdir, tuple(known.bench), baselines)


def _status(known: argparse.Namespace, _: list[str]) -> None:
    from dynnas_jax import kinds, status

    print("\n".join(status.lines(known.workdir, kinds.of_run(known.workdir).names)))


COMMANDS = {
    "run": _run,
    "study": _study,
    "augment": _augment,
    "cost": _cost,
    "search": _search,
    "export": _export,
    "specialize": _specialize,
    "lint": _lint,
    "bench": _bench,
    "table": _table,
    "report": _report,
    "status": _status,
}
WITH_CONFIG = (_run, _study, _augment, _table)  # commands whose other arguments are about a config

if __name__ == "__main__":
    main()
