"""The command line. What a user can get wrong ends in one plain line and exit code 2."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from pathlib import Path

from dynnas_jax import __version__
from dynnas_jax.train import preemption


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; exits with 2 after a mistake of the user's. DYNNAS_TRACEBACK=1 shows where it was noticed."""
    parser = _parser()
    known, rest = parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    if rest and known.command not in WITH_CONFIG:
        parser.error(f"unknown argument {rest[0]!r}")
    try:
        known.command(known, rest)
    except preemption.Preempted as ended:
        print(f"dynnas: {ended}", file=sys.stderr)
        sys.exit(ended.code)
    except (ValueError, OSError) as error:
        if os.environ.get("DYNNAS_TRACEBACK"):
            raise
        print(f"dynnas: {_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("dynnas: interrupted; the same command, without --redo, goes on where this one stopped", file=sys.stderr)
        sys.exit(130)


def _line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    # Checkpoints and records meet a full disk in tensorstore, which knows no errno.
    if os.strerror(errno.ENOSPC) in text or getattr(error, "errno", None) == errno.ENOSPC:
        where = f" for {error.filename}" if getattr(error, "filename", None) else ""
        return f"no space left on the disk{where}; what was complete is kept"
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    return " ".join(text.split())


class _Parser(argparse.ArgumentParser):
    """One plain line for a mistake, as everywhere else."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help lists all)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="dynnas", description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="from a config to a report", allow_abbrev=False)
    run.add_argument("--workdir", type=Path, required=True, help="where the artifacts go; a run found there is resumed")
    run.add_argument("--stages", help="only these, separated by commas")
    run.add_argument("--redo", metavar="STAGE", help="delete this stage's artifacts and those built on them, first")
    run.add_argument("--distributed", action="store_true", help="one of several processes; the cluster tells which")
    run.add_argument("--coordinator", metavar="HOST:PORT", help="where no cluster tells: of process 0")
    run.add_argument("--processes", type=int, metavar="N", help="and how many there are")
    run.add_argument("--process", type=int, metavar="I", help="and which this is, from 0")
    run.epilog = "--config=FILE.py[:mode] names the config; --config.train.steps=N and the like override it"
    run.set_defaults(command=_run)

    study = commands.add_parser("study", help="a grid of recipes and seeds, and its tables", allow_abbrev=False)
    study.add_argument("--workdir", type=Path, required=True, help="where the runs go; what is found there is resumed")
    study.add_argument("--rows", metavar="ROW[,ROW...]", help="only these, or a table's, and those they need")
    study.add_argument("--max_minutes", type=float, metavar="N", help="then stop; the same command goes on")
    study.add_argument("--table", action="store_true", help="run nothing, make the tables of what there is")
    study.add_argument("--take", metavar="RUN[,RUN...]", help="finished runs made outside it, in the place of its own")
    study.epilog = "--config=FILE.py[:mode] names the study"
    study.set_defaults(command=_study)

    augment = commands.add_parser("augment", help="a page of images under each augmentation", allow_abbrev=False)
    augment.add_argument("--output", type=Path, required=True, metavar="FILE.png")
    augment.epilog = "--config=FILE.py[:mode] and its overrides, as for run; the last rows show its own augmentation"
    augment.set_defaults(command=_augment)

    cost = commands.add_parser("cost", help="MACs and params of a network", allow_abbrev=False)
    which = cost.add_mutually_exclusive_group(required=True)
    which.add_argument("--network", metavar="NAME")
    which.add_argument("--workdir", type=Path, help="a run, for a subnet of its own space")
    cost.add_argument("--arch", type=Path, metavar="FILE", help="an arch file; a fixed network needs none")
    cost.set_defaults(command=_cost)

    search = commands.add_parser("search", help="the best subnet of a trained run within a budget", allow_abbrev=False)
    search.add_argument("--workdir", type=Path, required=True)
    budget = search.add_mutually_exclusive_group(required=True)
    budget.add_argument("--max_macs", type=float)
    budget.add_argument("--max_latency_ms", type=float, help="by a latency table")
    search.add_argument("--target", help="whose table that is; the run's own target by default")
    search.add_argument("--table", type=Path, metavar="FILE", help="of `dynnas table`; the run's own by default")
    search.add_argument(
        "--pair", action="store_true", help="the best pair of the recorded subnets; the budget is an average"
    )
    search.set_defaults(command=_search)

    export = commands.add_parser("export", help="a finished run's files for another device", allow_abbrev=False)
    export.add_argument("--workdir", type=Path, required=True)
    export.add_argument(
        "--target", required=True, metavar="NAME", help="edgetpu, pi4, pi5, jetson_nano, android or x86"
    )
    export.add_argument(
        "--precisions", metavar="P[,P...]", help="fp32, fp16, dynamic_range, int8; else the target's own"
    )
    export.set_defaults(command=_export)

    specialize = commands.add_parser("specialize", help="a file for some superclasses and a budget", allow_abbrev=False)
    specialize.add_argument("--workdir", type=Path, required=True)
    specialize.add_argument("--superclass", required=True, metavar="NAME[+NAME...]", help="one, or a set of several")
    limit = specialize.add_mutually_exclusive_group(required=True)
    limit.add_argument("--max_macs", type=float)
    limit.add_argument("--max_latency_ms", type=float, help="where the generator was trained with a latency table")
    specialize.add_argument(
        "--quick_evaluation", action="store_true", help="the most accurate sample on held-out images, not the likeliest"
    )
    specialize.add_argument("--target", metavar="NAME", help="of the files; the run's own by default")
    specialize.add_argument(
        "--precisions", metavar="P[,P...]", help="fp32, fp16, dynamic_range, int8; else the run's or the target's own"
    )
    specialize.add_argument("--name", help="of the folder in WORKDIR/specialize/TARGET; the superclass by default")
    specialize.set_defaults(command=_specialize)

    lint = commands.add_parser("lint", help="whether TFLite files keep a target's promises", allow_abbrev=False)
    lint.add_argument("files", type=Path, nargs="+", metavar="FILE", help="several: they run together, as a pair")
    lint.add_argument("--target", required=True, metavar="NAME")
    lint.add_argument("--compile", action="store_true", help="of the Edge TPU: fail where its compiler is not here")
    lint.set_defaults(command=_lint)

    _add_bench(commands)

    table = commands.add_parser("table", help="time the blocks of a config's space on this machine", allow_abbrev=False)
    table.add_argument("--target", required=True, help="whose table it is; this machine must be one")
    table.add_argument("--output", type=Path, required=True, metavar="FILE.json")
    table.add_argument(
        "--runtime", default=argparse.SUPPRESS, help="litert (default), or jax: on this machine's GPU, say"
    )
    table.add_argument("--precision", help="of the files; by default the one that the target runs")
    table.add_argument("--threads", type=int, default=argparse.SUPPRESS, help="of LiteRT")
    table.add_argument("--nets", type=int, default=argparse.SUPPRESS, help="whole nets that the blocks are fitted to")
    table.add_argument("--rounds", type=int, default=argparse.SUPPRESS, help="measurements of every block and net")
    table.epilog = (
        "--config=FILE.py[:mode] and its overrides, as for run; the same command goes on where it was stopped"
    )
    table.set_defaults(command=_table)

    for name, command, text in (
        ("report", _report, "make the report anew from the artifacts"),
        ("status", _status, "which stages are done"),
    ):
        sub = commands.add_parser(name, help=text, allow_abbrev=False)
        sub.add_argument("--workdir", type=Path, required=True)
        sub.set_defaults(command=command)
        if command is _report:
            sub.add_argument("--bench", type=Path, nargs="+", default=[], metavar="JSON", help="results to take in")
            sub.add_argument(
                "--baselines", metavar="W[,W...]", help="finished runs to stand beside this one on devices"
            )
    return parser


def _add_bench(commands) -> None:
    from dynnas_jax.export import bench_command, runtime

    bench = commands.add_parser("bench", help="how fast an export is on this machine", allow_abbrev=False)
    bench.add_argument("path", type=Path, help="an export folder or a file of it; or earlier results, for --energy_log")
    runtime.add_arguments(bench)
    bench_command.add_arguments(bench)
    bench.set_defaults(command=_bench)


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
    net = counting.net_of_run(known.workdir, content) if known.workdir else counting.net(known.network, content)
    count, params = counting.counted(net)
    print(json.dumps({"macs": count, "params": params}))


def _search(known: argparse.Namespace, _: list[str]) -> None:
    from dynnas_jax.stages import search

    asked = {name: getattr(known, name) for name in ("max_macs", "max_latency_ms", "target", "table", "pair")}
    print(json.dumps(search.best(known.workdir, **asked), indent=1))


def _table(known: argparse.Namespace, rest: list[str]) -> None:
    from dynnas_jax import recipe
    from dynnas_jax.stages import table

    config = {**_config(rest), "target": known.target}
    recipe.check(config)
    asked = {name: getattr(known, name) for name in ("runtime", "threads", "nets", "rounds") if hasattr(known, name)}
    built = table.build(config, known.output, target=known.target, precision=known.precision, **asked)
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


WITH_CONFIG = (_run, _study, _augment, _table)  # commands whose other arguments are about a config

if __name__ == "__main__":
    main()
