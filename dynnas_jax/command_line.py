"""The arguments of every command."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from dynnas_jax import __version__
from dynnas_jax.export import confined
from dynnas_jax.export.runtime import Parser


def path(text: str) -> Path:
    """A folder or a file; a bucket's address would otherwise make a folder of that name."""
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text} is an address; mount it (gcsfuse, say) and give the folder")
    return Path(text)


def parser(description: str, calls: Mapping[str, Callable]) -> Parser:
    """The parser of all commands; what it gives has as `command` that of `calls`, by the command's name."""
    made = Parser(prog="dynnas", description=description, allow_abbrev=False)
    made.add_argument("--version", action="version", version=__version__)
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    for name, (words, add) in COMMANDS.items():
        own = commands.add_parser(name, help=words, allow_abbrev=False)
        add(own)
        own.set_defaults(command=calls[name])
    return made


def _run(own: Parser) -> None:
    own.add_argument("--workdir", type=path, required=True, help="where the artifacts go; a run found there is resumed")
    own.add_argument("--stages", help="only these, separated by commas")
    own.add_argument("--redo", metavar="STAGE", help="delete this stage's artifacts and those built on them, first")
    own.add_argument("--distributed", action="store_true", help="one of several processes; the cluster tells which")
    own.add_argument("--coordinator", metavar="HOST:PORT", help="where no cluster tells: of process 0")
    own.add_argument("--processes", type=int, metavar="N", help="and how many there are")
    own.add_argument("--process", type=int, metavar="I", help="and which this is, from 0")
    own.epilog = "--config=FILE.py[:mode] names the config; --config.train.steps=N and the like override it"


def _study(own: Parser) -> None:
    own.add_argument("--workdir", type=path, required=True, help="where the runs go; what is found there is resumed")
    own.add_argument("--rows", metavar="ROW[,ROW...]", help="only these, or a table's, and those they need")
    own.add_argument("--max_minutes", type=float, metavar="N", help="then stop; the same command goes on")
    own.add_argument("--table", action="store_true", help="run nothing, make the tables of what there is")
    own.add_argument("--take", metavar="RUN[,RUN...]", help="finished runs made outside it, in the place of its own")
    own.epilog = "--config=FILE.py[:mode] names the study"


def _augment(own: Parser) -> None:
    own.add_argument("--output", type=path, required=True, metavar="FILE.png")
    own.epilog = "--config=FILE.py[:mode] and its overrides, as for run; the last rows show its own augmentation"


def _cost(own: Parser) -> None:
    which = own.add_mutually_exclusive_group(required=True)
    which.add_argument("--network", metavar="NAME")
    which.add_argument("--workdir", type=path, help="a run, for a subnet of its own space")
    own.add_argument("--arch", type=path, metavar="FILE", help="an arch file; a fixed network needs none")
    own.add_argument(
        "--exit_rate", type=float, help="of a pair, the part of the images that little answers: MACs on average"
    )


def _search(own: Parser) -> None:
    own.add_argument("--workdir", type=path, required=True)
    budget = own.add_mutually_exclusive_group(required=True)
    budget.add_argument("--max_macs", type=float)
    budget.add_argument("--max_latency_ms", type=float, help="by a latency table")
    own.add_argument("--target", help="whose table; the run's own by default. A budget of MACs alone has none")
    own.add_argument("--table", type=path, metavar="FILE", help="of `dynnas table`; the run's own by default")
    own.add_argument(
        "--pair", action="store_true", help="the best pair of the recorded subnets; the budget is an average"
    )
    own.add_argument(
        "--omega", type=float, help="how much the cost weighs, of nets of several exits; else as in the run"
    )


def _export(own: Parser) -> None:
    own.add_argument("--workdir", type=path, required=True)
    own.add_argument("--target", required=True, metavar="NAME", help="edgetpu, pi4, pi5, jetson_nano, android or x86")
    own.add_argument("--precisions", metavar="P[,P...]", help="fp32, fp16, dynamic_range, int8; else the target's own")


def _specialize(own: Parser) -> None:
    own.add_argument("--workdir", type=path, required=True)
    own.add_argument("--superclass", required=True, metavar="NAME[+NAME...]", help="one, or a set of several")
    limit = own.add_mutually_exclusive_group(required=True)
    limit.add_argument("--max_macs", type=float)
    limit.add_argument("--max_latency_ms", type=float, help="where the generator was trained with a latency table")
    own.add_argument(
        "--quick_evaluation", action="store_true", help="the most accurate sample on held-out images, not the likeliest"
    )
    own.add_argument("--target", metavar="NAME", help="of the files; the run's own by default")
    own.add_argument(
        "--precisions", metavar="P[,P...]", help="fp32, fp16, dynamic_range, int8; else the run's or the target's own"
    )
    own.add_argument("--name", help="of the folder in WORKDIR/specialize/TARGET; the superclass by default")


def _lint(own: Parser) -> None:
    own.add_argument("files", type=path, nargs="+", metavar="FILE", help="several: they run together, as a pair")
    own.add_argument("--target", required=True, metavar="NAME")
    own.add_argument("--compile", action="store_true", help="of the Edge TPU: fail where its compiler is not here")


def _table(own: Parser) -> None:
    own.add_argument("--target", help="whose table it is, the config's own by default; this machine must be one")
    own.add_argument("--output", type=path, required=True, metavar="FILE.json")
    own.add_argument(
        "--runtime", default=argparse.SUPPRESS, help="litert (default), or jax: on this machine's GPU, say"
    )
    own.add_argument("--precision", help="of the files; by default the one that the target runs")
    most = f"of LiteRT (1; at most {confined.MOST_THREADS})"
    own.add_argument("--threads", type=int, default=argparse.SUPPRESS, help=most)
    own.add_argument("--nets", type=int, default=argparse.SUPPRESS, help="whole nets that the blocks are fitted to")
    own.add_argument("--rounds", type=int, default=argparse.SUPPRESS, help="measurements of every block and net")
    own.epilog = "--config=FILE.py[:mode] and its overrides, as for run; the same command goes on where it was stopped"


def _bench(own: Parser) -> None:
    from dynnas_jax.export import bench_command, runtime

    own.add_argument("path", type=path, help="an export folder or a file of it; or earlier results, for --energy_log")
    runtime.add_arguments(own)
    bench_command.add_arguments(own)


def _report(own: Parser) -> None:
    own.add_argument("--workdir", type=path, required=True)
    own.add_argument("--bench", type=path, nargs="+", default=[], metavar="JSON", help="results to take in")
    own.add_argument("--baselines", metavar="W[,W...]", help="finished runs to stand beside this one on devices")


def _status(own: Parser) -> None:
    own.add_argument("--workdir", type=path, required=True)


COMMANDS = {  # what each says of itself, and its arguments
    "run": ("from a config to a report", _run),
    "study": ("a grid of recipes and seeds, and its tables", _study),
    "augment": ("a page of images under each augmentation", _augment),
    "cost": ("MACs and params of a network", _cost),
    "search": ("the best subnet of a trained run within a budget", _search),
    "export": ("a finished run's files for another device", _export),
    "specialize": ("a file for some superclasses and a budget", _specialize),
    "lint": ("whether TFLite or ONNX files keep a target's promises", _lint),
    "bench": ("how fast an export is on this machine", _bench),
    "table": ("time the blocks of a config's space on this machine", _table),
    "report": ("make the report anew from the artifacts", _report),
    "status": ("which stages are done", _status),
}
