"""The tables of a study of pairs: strategies, routers, trainings, spaces and losses, each beside what it is compared with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from dynnas_jax.decisions import OPTIMAL
from dynnas_jax.reports import study_rows
from dynnas_jax.reports.spreads import Spread, Table, numbers, verdict, words
from dynnas_jax.reports.study_rows import Row

RANDOM = "random"  # the strategy that the others are compared with
RECORDS = "records"  # the one that is no search of pairs

LABEL = words("label", "row")
TOP1 = numbers("top1", "top-1 (%)", scale=0.01)
MACS = numbers("macs", "MACs (M)", 3, 1e6)
LATENCY = numbers("latency_ms", "latency (ms)", 4)
_EXITS = numbers("exit_rate", "answered by little (%)", 1, 0.01)
_DIFFERENCE = numbers("difference", "top-1 above it (points)", scale=0.01, sign=True)
_WINS = words("wins", "seeds above it")
_KEPT = words("kept", "seeds that keep the target")
_PAIR = (
    numbers("little", "top-1 little (%)", scale=0.01),
    numbers("big", "top-1 big (%)", scale=0.01),
    numbers("dynamic", "top-1 dynamic (%)", scale=0.01),
)


def _strategies(rows: Sequence[Row]) -> Table:
    base = next((row for row in rows if row.asked.settings.get("search.strategy") == RANDOM), None)
    listed = []
    for row in rows:
        difference = ("", "") if row is base else _above(row, base)
        metered = row.asked.settings.get("search.strategy") != RECORDS  # those take the stages before the search too
        listed.append(
            {
                "label": row.asked.tables["strategies"],
                "top1": row.of("evaluation.dynamic.accuracy"),
                "macs": row.of("evaluation.dynamic.macs"),
                "kept": _kept(row),
                "held_out": row.of("found.pair.holdout.accuracy"),
                "device_s": row.spread(functools.partial(_device_s, row)) if metered else "",
                "architectures": row.of("found.effort.architectures"),
                "images": row.of("found.effort.images"),
                "peak_memory_bytes": row.of("found.effort.peak_memory_bytes") if metered else "",
                **dict(zip(("difference", "wins"), difference, strict=True)),
            }
        )
    columns = (
        *(LABEL, TOP1, MACS, _KEPT, numbers("held_out", "held-out (%)", scale=0.01)),
        numbers("device_s", "search (device-hours)", 4, 3600),
        numbers("architectures", "architectures evaluated", 0),
        numbers("images", "images forwarded (M)", 3, 1e6),
        numbers("peak_memory_bytes", "peak memory (MiB)", 0, 2**20),
        *(_DIFFERENCE, _WINS),
    )
    explanation = (
        "The pair that each strategy finds in the same trained supernet, on the test images; the cost is the search's alone. "
        "Effort is equal in images forwarded; what else a strategy computes is in its device-hours. Records are collected and "
        "fitted by stages of their own, which are not metered. A target is kept where dynamic costs no more on the test images "
        "than was allowed on the held-out ones. "
        "The last columns compare with random search, seed by seed."
    )
    differences = {row["label"]: row["difference"] for row in listed}
    notes = (
        verdict(differences, "random search on the test images")
        if base
        else ("There is no row of random search to compare with.",)
    )
    return Table("strategies", "Search strategies", explanation, columns, listed, notes)


def _device_s(row: Row, seed: int) -> float | None:
    """What a search took, all devices together."""
    effort = study_rows.at(row.runs[seed], "found.effort") or {}
    return effort["device_s"] * effort["devices"] if "device_s" in effort else None


def _kept(row: Row) -> str | None:
    """In how many seeds dynamic keeps its target of MACs on the test images, too; "" without such a target.

    And how many never could, not on the held-out images either: such a pair is the nearest that there was.
    """
    both = [
        (study_rows.at(found, "evaluation.dynamic.macs"), study_rows.at(found, "found.pair.target.max_macs"))
        for found in row.runs.values()
        if study_rows.at(found, "evaluation.dynamic.macs") is not None
    ]
    aimed = [macs <= most for macs, most in both if most is not None]
    never = sum(study_rows.at(found, "found.pair.feasible") is False for found in row.runs.values())
    beyond = f" ({never} cannot)" if never else ""
    return f"{sum(aimed)} of {len(aimed)}{beyond}" if aimed else "" if both else None


def _above(row: Row, base: Row | None) -> tuple[Spread | str | None, str | None]:
    """How far dynamic of a row is above that of another."""
    if base is None:
        return None, None
    return study_rows.paired(
        row, base, lambda each, seed: study_rows.at(each.runs[seed], "evaluation.dynamic.accuracy")
    )


def _routers(rows: Sequence[Row]) -> Table:
    listed = []
    for row in rows:
        first = functools.partial(study_rows.at, dotted="evaluation.routers.0")
        told = {seed: first(found) or {} for seed, found in row.runs.items()}
        little = {seed: study_rows.at(found, "evaluation.little.macs") for seed, found in row.runs.items()}
        measured = {seed: study_rows.measured(row, seed).get("dynamic", {}) for seed in row.runs}
        listed.append(
            {
                "label": row.asked.tables["routers"],
                "top1": row.of("evaluation.dynamic.accuracy"),
                "macs": row.of("evaluation.dynamic.macs"),
                "latency_ms": row.spread(lambda seed, known=measured: known[seed].get("latency_ms")),
                "exit_rate": row.of("evaluation.dynamic.exit_rate.0"),
                **{
                    key: row.spread(lambda seed, key=key, told=told: _meant(told[seed], key))
                    for key in ("routing_accuracy", "auroc", "auroc_holdout")
                },
                "share": row.spread(
                    lambda seed, told=told, little=little: _share(told[seed].get("macs"), little[seed])
                ),
            }
        )
    listed.append(_oracle(rows[0], listed[0]))
    columns = (
        *(LABEL, TOP1, MACS, LATENCY, _EXITS),
        numbers("routing_accuracy", "routed rightly (%)", 1, 0.01),
        numbers("auroc", "AUROC", 3),
        numbers("auroc_holdout", "AUROC, held-out", 3),
        numbers("share", "its MACs, of little's (%)", 3, 0.01),
    )
    explanation = (
        "One pair, routed in several ways, each with its threshold for the same target. AUROC is the chance that an image which "
        "little should answer scores above one which it should not. The oracle knows the labels; no router of the pair is "
        "better. A router that is trained jointly comes with nets of its own."
    )
    return Table("routers", "Routers", explanation, columns, listed)


def _oracle(row: Row, like: dict) -> dict:
    """The cheapest routing of the best accuracy that a row's pair can have."""
    best = {
        seed: next(
            (one for one in study_rows.at(found, "evaluation.oracle") or () if one["optimal"] == OPTIMAL[-1]), {}
        )
        for seed, found in row.runs.items()
    }
    known = {"top1": "accuracy", "macs": "macs", "exit_rate": "exit_rate"}
    told = {key: row.spread(lambda seed, name=name: best[seed].get(name)) for key, name in known.items()}
    return dict.fromkeys(like, "") | {"label": f"an oracle of the pair of {like['label']!r}"} | told


def _meant(told: dict, key: str) -> Any:
    """An AUROC that does not exist, since all decisions were alike, has no meaning; what no run has told is not run."""
    return "" if told and told.get(key) is None else told.get(key)


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _compared(rows: Sequence[Row], table: str) -> list[dict]:
    """Rows of pairs: what little, big and dynamic do, and dynamic beside that of the first row."""
    listed = []
    for row in rows:
        accuracies = {name: row.of(f"evaluation.{name}.accuracy") for name in ("little", "big", "dynamic")}
        difference = ("", "") if row is rows[0] else _above(row, rows[0])
        listed.append(
            {
                "label": row.asked.tables[table],
                **accuracies,
                "macs": row.of("evaluation.dynamic.macs"),
                "kept": _kept(row),
                "big_macs": row.of("evaluation.big.macs"),
                "exit_rate": row.of("evaluation.dynamic.exit_rate.0"),
                **dict(zip(("difference", "wins"), difference, strict=True)),
            }
        )
    return listed


_BIG_MACS = numbers("big_macs", "MACs of big (M)", 3, 1e6)
_AGAINST_FIRST = "The last columns compare dynamic with the first row, seed by seed."


def _training(rows: Sequence[Row]) -> Table:
    listed = _compared(rows, "training")
    for row, cells in zip(rows, listed, strict=True):
        cells["steps"] = f"{sum(steps_of(row)):,}" if steps_of(row) else None
    columns = (LABEL, *_PAIR, MACS, _KEPT, _BIG_MACS, _EXITS, words("steps", "steps in all"), _DIFFERENCE, _WINS)
    explanation = f"Little and big trained apart, together, and together with distillation. {_AGAINST_FIRST}"
    return Table("training", "Training apart or together", explanation, columns, listed, equality(rows))


def steps_of(row: Row) -> list[int]:
    """The optimiser steps of each training that made a row's nets."""
    return [int(trained["train.steps"]) for trained in row.asked.trained]


_TARGETS = ("dynamic.max_macs_fraction", "dynamic.max_latency_fraction", "dynamic.max_accuracy_loss")
_LIKE = {"images": ("data.",), "images a step": ("train.batch_size",), "optimizer": ("train.optimizer.",)}
_LIKE |= {"space": ("supernet.",)}
_COMPARED = "supernet.coupled"  # whether the nets are trained together: what the rows are there for


def equality(rows: Sequence[Row]) -> tuple[str, ...]:
    """What is equal, by the configs, of steps, images, optimizer, space and targets of rows that are compared, and what not."""
    if not rows:
        return ()
    sentences, name = [], lambda row: row.asked.tables["training"]
    totals = {name(row): sum(steps_of(row)) for row in rows}
    if len(set(totals.values())) == 1:
        sentences.append(f"All rows have {next(iter(totals.values())):,} optimiser steps in all (by their configs).")
    else:
        told = ", ".join(f"{label} {steps:,}" for label, steps in totals.items())
        sentences.append(f"The rows differ in their optimiser steps in all: {told}.")
    for what, prefixes in _LIKE.items():
        kept = [
            (name(row), {k: v for k, v in trained.items() if k.startswith(prefixes) and k != _COMPARED})
            for row in rows
            for trained in row.asked.trained
        ]
        others = list(dict.fromkeys(label for label, mine in kept if mine != kept[0][1]))
        equal = f"All have the same {'images and augmentation' if what == 'images' else what}."
        sentences.append(f"Not the same {what} as {kept[0][0]}: {', '.join(others)}." if others else equal)
    first, *rest = rows
    others = [name(row) for row in rest if _aims(row) != _aims(first)]
    told = f"Not the same target as {name(first)}: {', '.join(others)}."
    sentences.append(told if others else "All have the same target.")
    return (" ".join(sentences),)


def _aims(row: Row) -> set[tuple]:
    """The targets by which a row's nets and its threshold were chosen, those of the runs that it takes nets from included."""
    aims = ({k: v for k, v in each.items() if k in _TARGETS} for each in (row.asked.settings, *row.asked.trained))
    return {tuple(sorted(aim.items(), key=str)) for aim in aims if any(value is not None for value in aim.values())}


def _space(rows: Sequence[Row]) -> Table:
    explanation = f"The space restricted to one kind of choice; all else is at its largest. {_AGAINST_FIRST}"
    listed = _compared(rows, "space")
    for row, cells in zip(rows, listed, strict=True):
        pairs = [study_rows.at(found, "found.pairs") for found in row.runs.values()]
        cells["pairs"] = next((f"{count:,}" for count in pairs if count is not None), None)
    columns = (
        LABEL,
        words("pairs", "pairs of the space"),
        *_PAIR,
        MACS,
        _KEPT,
        _BIG_MACS,
        _EXITS,
        _DIFFERENCE,
        _WINS,
    )
    return Table("space", "Dimensions of the space", explanation, columns, listed)


def _loss(rows: Sequence[Row]) -> Table:
    explanation = (
        "The joint loss, and the same with one term left out or changed. With distillation little learns big's soft targets in "
        f"the place of labels, and so do random bigs the largest's. {_AGAINST_FIRST}"
    )
    columns = (LABEL, *_PAIR, _EXITS, MACS, _KEPT, _DIFFERENCE, _WINS)
    return Table("loss", "Terms of the loss", explanation, columns, _compared(rows, "loss"))


# By the name that a row's config gives.
TABLES: dict[str, Callable[[Sequence[Row]], Table]] = {
    "strategies": _strategies,
    "routers": _routers,
    "training": _training,
    "space": _space,
    "loss": _loss,
}
