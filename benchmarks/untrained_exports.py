"""Every recipe exported untrained for every target: python benchmarks/untrained_exports.py --output=FILE.json.

With random weights and statistics of random images: of a recipe with a space the pair of its smallest and largest subnet, a
random net of several exits, or a subnet for some superclasses; of one that grows the net that it begins with; of the baselines
each network, and the cascade of MobileNetV3-Small and -Large. All go through the whole export of every target, whose checks
fail them: operators and their versions, memory, MACs, fp32 outputs against JAX's. Recipes whose nets are the same, and targets
whose files are, share one export; `dynnas lint` then holds the files to each of the targets. What the JSON file has is not done
again, so the same command goes on; at the end a table, and exit code 1 if anything failed.

A space is restricted to what its target runs, a published network is not: one with hard-swish or with convolutions in groups
must be refused for the Edge TPU, as must a net of more weights than its cache holds, and counts as failed if it is not.
"""

import argparse
import importlib.metadata
import json
import runpy
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax import elastic, job, kinds, settings
from dynnas_jax.costs import macs
from dynnas_jax.data import sources, splits, superclasses
from dynnas_jax.export import dynamic, lint, targets
from dynnas_jax.networks import exits, growing, mbconv, multi_costs
from dynnas_jax.stages import export, export_weights, slimmable, superclass_export
from dynnas_jax.train import calibration
from dynnas_jax.workdir import Workdir, digest, write_json

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# Side, channels and classes of the images; the side of photos is the recipe's.
IMAGES = {
    "digits": (8, 1, 10),
    "cifar10": (32, 3, 10),
    "cifar100": (32, 3, 100),
    "imagenet100_at32": (32, 3, 100),
    "imagenet100": (None, 3, 100),
    "imagenet2012": (None, 3, 1000),
    "visual_wake_words": (None, 3, 2),
    "cars196": (None, 3, 196),
}
_BASELINES = runpy.run_path(str(CONFIGS / "baselines.py"))
_PHOTOS = ("tiny", "weights", "", "pod")
# In the order they are done.
MODES = {
    "digits": ("", "tiny"),
    "digits_coupled": ("", "tiny", "apart", "apart_tiny"),
    "cifar10": ("tiny", ""),
    "cifar10_coupled": ("tiny", "", "apart_tiny", "apart"),
    "cifar100": ("tiny", ""),
    "imagenet100_at32": ("tiny", ""),
    "visual_wake_words": _PHOTOS,
    "imagenet100": _PHOTOS,
    "imagenet_ofa": _PHOTOS,
    "baselines": (
        "",
        "tiny",
        *(f"{d},{n}" for d in _BASELINES["DATASETS"] for n in (*_BASELINES["NETWORKS"], *_BASELINES["OTHERS"])),
    ),
    "enas4d_digits": ("", "tiny"),
    "enas4d_cifar10": ("tiny", ""),
    "enas4d_cifar100": ("tiny", ""),
    "enas4d_imagenet": ("",),
    "msdnet": ("digits", "digits_tiny", "cifar10_tiny", "cifar10", "imagenet"),
    "eas_digits": ("", "tiny"),
    "eas_imagenet100_at32": ("tiny", ""),
    "eas_paper": ("tiny", "", "imagenet12", "car20"),
    "ds_net_digits": ("", "tiny"),
    "ds_net_cifar10": ("tiny", ""),
    "ds_net_imagenet100_at32": ("tiny", ""),
    "ds_net_imagenet": ("tiny", "mobilenet", "mobilenet18", "efficientnet", ""),
    "stage_growth_digits": ("", "tiny"),
    "stage_growth_cifar10": tuple(f"{mode}{end}" for mode in ("", "cells_") for end in ("tiny", "")),
    "stage_growth_imagenet": ("tiny", "", "source"),
}
# Studies of the others, and nets that are those of other recipes on other images, from files that a run leaves.
STUDIES = ("study_digits", "study_cifar10", "study_growth_digits", "study_growth_cifar10")
NOTHING_TO_EXPORT = (*STUDIES, "stage_growth_transfer")
CASCADE = ("mobilenet_v3_small", "mobilenet_v3_large")
# What of a target the files depend on; lint holds them to the rest.
_OF_FILES = ("precisions", "one_file", "onnx", "onnx_opset", "depthwise", "only")
COUNT = 16  # random images for statistics, scales and comparisons, at least: the classes of superclasses may be more
NOISE = 8  # of 255, to both sides
SMALL_SCALE = 0.1  # of the norms at the ends of residual branches
_PACKAGES = ("jax", "flax", "tensorflow", "tensorflow-cpu", "ai-edge-litert", "tf2onnx", "onnxruntime")


class Nets(NamedTuple):
    """What one or several recipes export for one or several targets whose files are the same."""

    recipes: tuple[str, ...]
    targets: tuple[str, ...]
    config: dict  # of the first, for the first

    @property
    def key(self) -> str:
        """Of its row in the JSON file."""
        return f"{self.recipes[0]} {self.targets[0]}"


def loaded(recipe: str) -> dict:
    """The config of RECIPE[:MODE]."""
    name, _, mode = recipe.partition(":")
    config = settings.as_dict(settings.load([f"--config={CONFIGS / name}.py{':' if mode else ''}{mode}"]))
    config[kinds.of(config).name]["depthwise"] = "conv"  # compiles fastest; an export has its target's own form
    if kinds.of(config) in kinds.OF_EXITS:
        config["dynamic"]["deployed"] = 0  # of the one net that is made up
    return config


def random_images(config: dict) -> sources.Dataset:
    """Images of the config's size: coarse patches, since noise alone would give every image the same statistics, and some noise
    on them as in photos, since over flat ones all sums round the same way.
    """
    side, channels, classes = IMAGES[config["data"]["name"]]
    side, generator = side or config["data"]["image_size"], np.random.default_rng(0)
    names, shown = tuple(f"class {number}" for number in range(classes)), np.arange(min(classes, COUNT))
    if "superclasses" in config:
        groups = list(superclasses.listed(**config["superclasses"]).values())
        names = tuple(str(name) for group in groups for name in group)
        # Classes of what is exported: each needs an image.
        shown = np.r_[: len(groups[0]), len(names) - len(groups[-1]) : len(names)]
    labels = np.resize(shown, max(COUNT, len(shown))).astype(np.int32)
    coarse = generator.integers(0, 256, (len(labels), 4, 4, channels))
    rows = np.arange(side) * 4 // side
    patches = coarse[:, rows][:, :, rows]
    images = (patches + generator.integers(-NOISE, NOISE, patches.shape, endpoint=True)).clip(0, 255).astype(np.uint8)
    split = splits.Split(images, labels, np.arange(len(labels)))
    return sources.Dataset(config["data"]["name"], split, split, split, names, (0.5,) * channels, (0.25,) * channels)


def wanted(recipes: Iterable[str], names: Iterable[str]) -> list[Nets]:
    """What is to be exported, each once."""
    found = {}
    for recipe, config in ((recipe, loaded(recipe)) for recipe in recipes):
        for name in names:
            own = {**config, "target": name}
            same = found.setdefault(_identity(own, targets.target(name)), (own, [], []))
            for what, others in ((recipe, same[1]), (name, same[2])):
                if what not in others:
                    others.append(what)
    return [Nets(tuple(same), tuple(of), config) for config, same, of in found.values()]


def _identity(config: dict, target: targets.Target) -> str:
    """Equal where the nets are, and the files that a target gets of them."""
    files = {name: getattr(target, name) for name in _OF_FILES}
    return digest([_nets_identity(config), files, config.get("dynamic", {}).get("score")])


def _nets_identity(config: dict) -> str:
    kind, images = kinds.of(config), random_images(config)
    if kind in (kinds.SUPERNET, kinds.MULTI_EXIT, kinds.SLIMMABLE, kinds.EAS):
        supernet = job.build(config, job.facts_of(images))
        nets = [supernet.space.fingerprint, supernet.coupling is not None]
    else:  # a cascade's nets stand in no section of its own: its title names them
        nets = [config[kind.name], config["report"]["title"] if kind is kinds.CASCADE else ""]
    return digest([kind.name, nets, images.train.images.shape, len(images.classes)])


class Untrained:
    """Nets that have learned nothing; the last ones are kept, since targets one after the other want the same."""

    def __init__(self):
        self._key, self._made = None, None

    def job(self, config: dict, path: Path) -> job.Job:
        """A job as if all before the export were done."""
        images, kind = random_images(config), kinds.of(config)
        supernet = job.build(config, job.facts_of(images))
        if (key := _nets_identity(config)) != self._key:
            self._key, self._made = key, _MADE[kind.name](config, supernet, images)
        workdir = Workdir(path, kind.stages, config, {})
        for name, content in self._made.items():
            file = path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            (write_json if file.suffix == ".json" else job.save_variables)(file, content)
        groups = superclasses.of(images.classes, **config["superclasses"]) if "superclasses" in config else None
        routing, target, seed = config.get("dynamic", {}), config["target"], config["seed"]
        return job.Job(workdir, images, supernet, routing, None, target, seed, groups)


# What the stages before the export would leave, by the names of their files.
Artifacts = dict[str, dict]


def _variables(supernet: elastic.Supernet, images: sources.Dataset) -> dict:
    return elastic.init_supernet(supernet, jax.random.key(0), images.train.images.shape[1:])


def _own(supernet: elastic.Supernet, variables: dict, genome: np.ndarray, images: sources.Dataset) -> dict:
    """Those of a subnet, with its statistics of the images."""
    return calibration.extract_calibrated(supernet, variables, genome, images.train.images[None])[1]


def _fixed(supernet: elastic.Supernet, images: sources.Dataset) -> dict:
    """The variables of a supernet without genes."""
    return _own(supernet, _damped(_variables(supernet, images)), supernet.space.largest, images)


def _damped(variables: dict) -> dict:
    """With small scales at the ends of bottlenecks: deep random nets make too much of a rounding otherwise, in JAX too."""

    def leaf(path: tuple, value: jax.Array) -> jax.Array:
        return value * SMALL_SCALE if path[-2].key == "conv2_norm" and path[-1].key == "scale" else value

    return jax.tree_util.tree_map_with_path(leaf, variables)


def _network(config: dict, supernet: elastic.Supernet, images: sources.Dataset) -> Artifacts:
    return {f"train/{job.trained_file(kinds.NETWORK)}": _fixed(supernet, images)}


def _pair(config: dict, supernet: elastic.Supernet, images: sources.Dataset) -> Artifacts:
    """As if the search had found the smallest and the largest subnet."""
    smallest, largest = supernet.space.smallest, supernet.space.largest
    if "resolution" in supernet.space:
        smallest[supernet.space.index("resolution")] = largest[supernet.space.index("resolution")]
    variables, genomes = _variables(supernet, images), {"little": smallest, "big": largest}
    own = {
        "little": supernet.coupling.as_little(variables) if supernet.coupling else variables,
        "big": variables,
    }
    own = {which: _own(supernet, own[which], genome, images) for which, genome in genomes.items()}
    return _found_pair({which: {"genome": supernet.space.to_json(genome)} for which, genome in genomes.items()}, own)


def _cascade(config: dict, _: None, images: sources.Dataset) -> Artifacts:
    """The same of a cascade of two published networks, as its dataset's recipes make them."""
    dataset = config["report"]["title"].rpartition(" ")[2]
    found, own, facts = {}, {}, job.facts_of(images)
    for which, network in zip(("little", "big"), CASCADE, strict=True):
        section = loaded(f"baselines:{dataset},{network}")
        supernet = job.build(section, facts)
        made_of = {"config": {"network": section["network"], "target": section["target"]}, "data": facts}
        found[which] = {"made_of": {**made_of, "genome": supernet.space.to_json(supernet.space.largest)}}
        own[which] = _fixed(supernet, images)
    return _found_pair(found, own)


def _found_pair(found: dict, own: dict) -> Artifacts:
    return {
        "search/found.json": {"pair": {**found, "thresholds": [0.5], "score": "max_softmax"}},
        "search/pair.msgpack": own,
    }


def _exits(config: dict, supernet: elastic.Supernet, images: sources.Dataset) -> Artifacts:
    """As if the search had found this one."""
    genome, variables = _random_exits(supernet), _variables(supernet, images)
    return {**_found_exits(supernet, genome), "search/nets.msgpack": {"0": _own(supernet, variables, genome, images)}}


def _random_exits(supernet: elastic.Supernet) -> np.ndarray:
    """The genome of a random net of several exits, in the largest resolution."""
    genome = np.array(supernet.space.sample(jax.random.key(0)))
    if "resolution" in supernet.space:
        genome[supernet.space.index("resolution")] = supernet.space.largest[supernet.space.index("resolution")]
    return multi_costs.settled(supernet, genome)


def _exit_network(config: dict, supernet: elastic.Supernet, images: sources.Dataset) -> Artifacts:
    trained = {f"train/{job.trained_file(kinds.EXIT_NETWORK)}": _fixed(supernet, images)}
    return {**_found_exits(supernet, supernet.space.largest), **trained}


def _found_exits(supernet: elastic.Supernet, genome: np.ndarray) -> Artifacts:
    limits = [0.5] * (len(supernet.exits) - 1)
    net = {"genome": supernet.space.to_json(genome), "thresholds": limits}
    return {"search/found.json": {"nets": [net], "score": "max_softmax"}}


def _gated(config: dict, supernet: elastic.Supernet, images: sources.Dataset) -> Artifacts:
    """As if the gates chose every ratio equally often."""
    variables = _without_zeros(_variables(supernet, images))
    variables = slimmable.with_path_statistics(supernet, variables, images.train.images[None])
    share = [[1 / len(gene.choices)] * len(gene.choices) for gene in supernet.space.genes]
    return {
        f"gate/{slimmable.VARIABLES}": variables,
        "gate/found.json": {"holdout": {"share": share}},
        "evaluate/evaluation.json": {"gates": [{"share": own} for own in share]},
    }


def _without_zeros(variables: dict) -> dict:
    """With small scales and random kernels where these begin at zero.

    Behind scales of zero nothing is left that has a scale in int8, kernels of zeros are stored once, and attention is 1.
    """

    def leaf(path: tuple, value: jax.Array) -> jax.Array:
        name, seed = path[-1].key, sum(jax.tree_util.keystr(path).encode())
        if name not in ("scale", "kernel") or (value != 0).any():
            return value
        drawn = jax.random.normal(jax.random.key(seed), value.shape, value.dtype) / np.sqrt(np.prod(value.shape[:-1]))
        return jnp.full_like(value, SMALL_SCALE) if name == "scale" else drawn

    return jax.tree_util.tree_map_with_path(leaf, variables)


def _grown(config: dict, supernet: elastic.Supernet, images: sources.Dataset) -> Artifacts:
    """As if nothing had grown: deeper nets have more of the same modules."""
    made_of = growing.section(config["growth"], growing.initial(config))
    candidate = {"network": made_of, "variables": "grow/initial.msgpack"}
    return {"grow/growth.json": {"candidates": [candidate]}, "grow/initial.msgpack": _fixed(supernet, images)}


def _of_superclasses(config: dict, supernet: elastic.Supernet, images: sources.Dataset) -> Artifacts:
    return {f"train/{job.trained_file(kinds.EAS)}": _variables(supernet, images)}


_MADE = {
    kinds.SUPERNET.name: _pair,
    kinds.NETWORK.name: _network,
    kinds.CASCADE.name: _cascade,
    kinds.MULTI_EXIT.name: _exits,
    kinds.EXIT_NETWORK.name: _exit_network,
    kinds.SLIMMABLE.name: _gated,
    kinds.GROWTH.name: _grown,
    kinds.EAS.name: _of_superclasses,
}


def exported(nets: Nets, untrained: Untrained) -> dict:
    """What the files are and what every target says of them. Raises ValueError where a check fails."""
    with tempfile.TemporaryDirectory() as scratch:
        prepared, files = untrained.job(nets.config, Path(scratch) / "run"), Path(scratch) / "files"
        facts = _specialised(prepared, files) if prepared.kind is kinds.EAS else _answering(prepared, files)
        row = _row(facts, nets.targets[0])
        for name in nets.targets[1:]:
            found = [lint.check(file, name) for file in sorted(files.rglob("*.tflite"))]
            row["warnings"][name] = sorted({finding.line() for own in found for finding in own.warnings})
        return row


def _answering(prepared: job.Job, files: Path) -> dict:
    """The facts of the files of a network that answers with all classes."""
    network, promise = export.promised(prepared)
    export_weights.check(prepared)
    images = prepared.images.train.images
    if images.shape[1] != network.image_shape[0]:
        rows = np.arange(network.image_shape[0]) * images.shape[1] // network.image_shape[0]
        images = images[:, rows][:, :, rows]
    with dynamic.all_or_nothing(files) as folder:
        return dynamic.export(network, promise, folder, target=prepared.target, calibration=images)


def _specialised(prepared: job.Job, files: Path) -> dict:
    """The same of the largest subnet for the first superclass and the smallest for the last: heads of some classes."""
    facts, space, names = {}, prepared.supernet.space, prepared.superclasses.names
    options = {
        "precisions": (),
        "onnx": False,
        "calibration_images": len(prepared.images.train),
        "max_accuracy_loss": 1.0,
    }
    options |= {"threads": 1, "runs": 1, "warm_up": 0}
    for name, genome in ((names[0], space.largest), (names[-1], space.smallest)):
        subnet = superclass_export.Subnet(name, prepared.superclasses.members([name]), genome)
        told = superclass_export.write(prepared, subnet, files / name, options)["files"]
        facts |= {f"{name}_{key}": {**fact, "path": f"{name}/{fact['path']}"} for key, fact in told.items()}
    return facts


def _row(facts: dict, target: str) -> dict:
    differences = [fact["max_logit_difference"] for fact in facts.values() if fact["precision"] == "fp32"]
    return {
        "files": {fact["path"]: fact["size_bytes"] for fact in facts.values()},
        "macs": {fact["function"]: fact["macs"] for fact in facts.values()},
        "fp32_difference": max(differences, default=None),
        "warnings": {target: sorted({line for fact in facts.values() for line in fact.get("warnings", ())})},
    }


def _counted(warnings: dict[str, list[str]]) -> str:
    """How many a row's targets have: one number where it is that of all."""
    counts = {name: len(lines) for name, lines in warnings.items()}
    alike = len({*counts.values()}) == 1
    return str(max(counts.values())) if alike else ", ".join(f"{name} {count}" for name, count in counts.items())


def _weights(config: dict) -> int:
    """How many weights a network has that may be too large for the Edge TPU's cache; 0 of other kinds."""
    kind, images = kinds.of(config), random_images(config)
    supernet = job.build(config, job.facts_of(images))
    if kind in kinds.OF_EXITS:
        genome = _random_exits(supernet) if kind is kinds.MULTI_EXIT else supernet.space.largest
        return exits.costs(supernet.net(supernet.arch(genome))).params[-1]
    if kind in kinds.OF_NET:
        return macs.net_cost(supernet.largest_net(), images.train.images.shape[1:])[1]
    return export_weights.of_paths(supernet, range(3)) if kind is kinds.SLIMMABLE else 0


def _lacked(nets: Nets) -> tuple[str, ...]:
    """What must be said, one of these, of what a target cannot have; () where it can.

    Of published networks with operators that it lacks, of networks of several gates where each part is a file, of nets of several
    exits, single nets and gated ones that are too large for the Edge TPU's cache, and of gated ones whose parts, a file each with
    all that it needs, are too large for a board.
    """
    kind, target = kinds.of(nets.config), targets.target(nets.targets[0])
    if kind is kinds.SLIMMABLE:
        supernet = job.build(nets.config, job.facts_of(random_images(nets.config)))
        if not target.one_file and len(supernet.space.genes) > 1:
            return ("gates, whose parts are too many",)
        if target.onnx and 4 * export_weights.apart(supernet) > target.memory_bytes:  # in fp32
            return (f"do not fit in {target.memory_bytes / targets.MIB:.2f} MiB",)
    if target.name == "edgetpu" and _weights(nets.config) > target.memory_bytes:  # a byte each
        return ("do not fit in 8.00 MiB",)
    chain = nets.config.get("exit_network", {}).get("network")  # which a BranchyNet stands on
    if not (kind in (kinds.NETWORK, kinds.CASCADE) or chain) or target.ops is None:
        return ()
    facts, sections = job.facts_of(random_images(nets.config)), [nets.config]
    if chain or kind is kinds.CASCADE:
        dataset = nets.config["report"]["title"].rpartition(" ")[2]
        sections = [loaded(f"baselines:{dataset},{network}") for network in ([chain] if chain else CASCADE)]
    archs = [job.build(section, facts).largest_net().arch for section in sections]
    archs = [arch for arch in archs if isinstance(arch, mbconv.Arch)]  # residual nets have ReLU, and no groups
    blocks = [spec for arch in archs for _, spec in arch.named_blocks()]
    activations = {arch.stem_act for arch in archs} | {arch.head_act for arch in archs} | {spec.act for spec in blocks}
    no_swish = "hswish" in activations and "HARD_SWISH" not in target.ops
    no_groups = any(spec.groups > 1 for spec in blocks) and target.ops["CONV_2D"] < 6  # the version that has groups
    return (*(("HARD_SWISH",) if no_swish else ()), *(("CONV_2D: version 6",) if no_groups else ()))


def attempt(nets: Nets, untrained: Untrained) -> dict:
    """The row of the JSON file."""
    begin_s, lacked = time.monotonic(), _lacked(nets)
    try:
        row = {"failed": None, **exported(nets, untrained)}
        if lacked:
            row["failed"] = f"exported, though the target lacks {' and '.join(lacked)}"
    except ValueError as error:
        right = any(what in str(error) for what in lacked)
        row = {"failed": None, "refused": str(error)} if right else {"failed": str(error)}
    return {"recipes": nets.recipes, "targets": nets.targets, **row, "seconds": round(time.monotonic() - begin_s)}


def table(rows: Iterable[dict]) -> Iterator[str]:
    """The rows as lines of Markdown."""
    yield "| recipes | targets | files | KiB | MACs of the largest (M) | fp32 outputs differ from JAX's by | warnings |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        first = [", ".join(row["recipes"]), ", ".join(row["targets"])]
        if row["failed"] or "refused" in row:
            words = f"FAILED: {row['failed']}" if row["failed"] else f"refused, as it must be: {row['refused']}"
            yield "| " + " | ".join([*first, words, "", "", "", ""]) + " |"
            continue
        worst = "" if row["fp32_difference"] is None else f"{row['fp32_difference']:.1e}"
        sizes = str(len(row["files"])), f"{sum(row['files'].values()) / 1024:.0f}"
        yield (
            "| "
            + " | ".join([*first, *sizes, f"{max(row['macs'].values()) / 1e6:.2f}", worst, _counted(row["warnings"])])
            + " |"
        )


def every_recipe() -> list[str]:
    """All recipes in all modes. Raises ValueError if a file of `configs` is not known here."""
    files = {file.stem for file in CONFIGS.glob("*.py")} - set(NOTHING_TO_EXPORT)
    if files != set(MODES):
        raise ValueError(f"MODES has {sorted(MODES)}, configs/ {sorted(files)}")
    return [f"{name}:{mode}" if mode else name for name, modes in MODES.items() for mode in modes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", metavar="RECIPE[:MODE]", help="only these, such as cifar10:tiny")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--targets", nargs="+", choices=list(targets.TARGETS), default=list(targets.TARGETS))
    parser.add_argument("--table", action="store_true", help="export nothing, print what the file has")
    known = parser.parse_args()
    content = json.loads(known.output.read_text()) if known.output.exists() else {"rows": {}}
    for row in content["rows"].values():
        if isinstance(row.get("warnings"), list):  # a file begun when only those of the first target were kept
            row["warnings"] = dict.fromkeys(row["targets"], row["warnings"])
    installed = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()}
    content["versions"] = {name: installed[name] for name in _PACKAGES if name in installed}
    every = wanted(every_recipe(), targets.TARGETS)
    if unknown := set(known.recipes) - {recipe for nets in every for recipe in nets.recipes}:
        parser.error(f"there is no recipe {', '.join(sorted(unknown))}")
    every = [nets for nets in every if not known.recipes or set(known.recipes) & set(nets.recipes)]
    every = [nets for nets in every if set(known.targets) & set(nets.targets)]
    if known.table:
        every = [nets for nets in every if nets.key in content["rows"]]
    untrained = Untrained()
    for number, nets in enumerate(every):
        if content["rows"].get(nets.key, {"failed": True})["failed"] is not None:
            content["rows"][nets.key] = attempt(nets, untrained)
            write_json(known.output, content)
        print(f"{number + 1}/{len(every)} {nets.key}: {content['rows'][nets.key]}", file=sys.stderr, flush=True)
    rows = [content["rows"][nets.key] for nets in every]
    print("\n".join(table(rows)))
    sys.exit(1 if any(row["failed"] for row in rows) else 0)


if __name__ == "__main__":
    main()
