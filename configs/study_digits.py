"""The study of coupled little and big nets on handwritten digits: the tables and figures of the proposal's section 5.

Lineage: rows are runs of configs/digits_coupled.py and configs/baselines.py, three seeds each; every training takes 700 steps
of 128 images, 73 epochs, if its row does not say otherwise (the independent pair at equal steps: 350 for each of its two); the
figure "learning" shows whether these are enough. The published networks are narrow, and MSDNet is the cheapest.
The part `main` took 45 minutes on 2 CPU cores (docs/results/study_digits.md), all rows would take 6 to 7 hours (an estimate); in
parts of at most 100 minutes:
    dynnas study --config=configs/study_digits.py --workdir=runs/study --rows=main
    dynnas study --config=configs/study_digits.py --workdir=runs/study --max_minutes=100   # again and again, until all is done
    dynnas study --config=configs/study_digits.py:tiny --workdir=runs/study_tiny           # one seed, a few steps
"""

from ml_collections import ConfigDict

APART = ("train", "collect", "predict", "search")  # of a run that a cascade takes a net from
UP_TO_TEST = (*APART, "evaluate")  # of a row that no device is asked about
STEPS, TINY_STEPS = 700, 20
LOOKS = 7  # at the held-out accuracy, evenly over a training
STRATEGIES = {"evolutionary": "evolutionary", "once_for_all": "once-for-all style", "differentiable": "differentiable"}
LABELS = {
    "mobilenet_v3_small": "MobileNetV3-Small",
    "mobilenet_v3_large": "MobileNetV3-Large",
    "efficientnet_b0": "EfficientNet-B0",
    "fbnet_a": "FBNet-A",
}
LITTLE = ("supernet.depths=(1,)", "supernet.expands=(1, 2)")  # the space of a little net that is searched by itself
WIDTHS = {name: 0.25 if name == "efficientnet_b0" else 0.35 for name in LABELS}  # as wide as digits need


def get_config(mode: str = "") -> ConfigDict:
    if mode not in ("", "tiny"):
        raise ValueError(f"mode is {mode!r}, choose from '' and 'tiny'")
    config = ConfigDict()
    config.title = "Coupled little and big networks on handwritten digits"
    config.seeds = (0,) if mode else (0, 1, 2)
    coupled, apart = ("digits_coupled.py:" + name for name in (("tiny", "apart_tiny") if mode else ("", "apart")))
    dataset = "digits_tiny" if mode else "digits"
    steps = TINY_STEPS if mode else STEPS
    rows = (
        *main(coupled.removesuffix(":"), dataset, WIDTHS),
        *baselines(apart, dataset, WIDTHS),
        *strategies(coupled.removesuffix(":"), effort_images=60_000 if mode else 400_000),
        *routers(coupled.removesuffix(":")),
        *training(coupled.removesuffix(":"), apart, dataset, steps, LITTLE),
        *space(coupled.removesuffix(":"), subnets=16 if mode else 256),
        *loss(coupled.removesuffix(":")),
    )
    config.rows = tuple(with_common(row, steps) for row in rows)
    return config


def with_common(row: dict, steps: int) -> dict:
    """What all rows have: the same steps if they say no other, and files in the one precision that the tables tell of."""
    own = dict(override.split("=", 1) for override in row.get("overrides", ()))
    common = {"export.precisions": ("fp32",)}
    if not row["recipe"].endswith(",cascade"):
        steps = int(own.get("train.steps", steps))
        common |= {"train.steps": steps, "train.evaluate_every": steps // LOOKS}
    return {**row, "overrides": tuple(f"{key}={value}" for key, value in (common | own).items())}


def main(coupled: str, dataset: str, widths: dict[str, float]) -> tuple[dict, ...]:
    """The coupled pair, published networks, and the cascade of two of them."""
    tables = {
        "main": "coupled pair",
        "routers": "confidence, max-softmax",
        "training": "co-trained, distillation",
        "space": "full",
    }
    tables |= {"strategies": "records and predictor", "loss": "full loss", "behaviour": "the coupled pair"}
    pair = {"name": "coupled", "recipe": coupled, "tables": tables, "bench": True}
    single = (
        network(dataset, name, widths) for name in ("mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0")
    )
    cascade = {
        "name": "cascade",
        "recipe": f"baselines.py:{dataset},cascade",
        "overrides": ("cascade.little={mobilenet_v3_small}", "cascade.big={mobilenet_v3_large}"),
        "tables": {"main": "cascade of MobileNetV3", "behaviour": "the cascade of MobileNetV3"},
        "bench": True,
    }
    return pair, *single, cascade


def network(dataset: str, name: str, widths: dict[str, float]) -> dict:
    """One published network, narrowed where `widths` says so."""
    return rival(name, f"{dataset},{name}", LABELS[name], "network.width", widths.get(name))


def rival(name: str, mode: str, label: str, key: str, width: float | None) -> dict:
    """A row of the main table out of configs/baselines.py."""
    return {
        "name": name,
        "recipe": f"baselines.py:{mode}",
        "overrides": () if width is None else (f"{key}={width}",),
        "tables": {"main": label if width is None else f"{label}, {width} wide"},
        "bench": True,
    }


def baselines(apart: str, dataset: str, widths: dict[str, float]) -> tuple[dict, ...]:
    """More rivals for the main table, in a part of their own: a network of a search, subnets of one supernet, several exits."""
    subnets = {
        "name": "once_for_all",
        "recipe": apart,
        "overrides": ("train.progressive_shrinking.largest_share=0.25",),
        "tables": {"main": "once-for-all subnets"},
        "bench": True,
    }
    exits = {"name": "msdnet", "recipe": f"msdnet.py:{dataset}", "tables": {"main": "MSDNet"}, "bench": True}
    chain, small = "BranchyNet on MobileNetV3-Small", widths.get("mobilenet_v3_small")
    branches = rival("branchynet", f"{dataset},branchynet", chain, "exit_network.width", small)
    rows = (network(dataset, "fbnet_a", widths), subnets, exits, branches)
    return tuple({"part": "baselines", **row} for row in rows)


def strategies(coupled: str, effort_images: int) -> tuple[dict, ...]:
    """Each search strategy, and random search, in the coupled supernet of the main row; all forward as many images.

    In the full mode that is what the records of the main row take, so that it compares with them too.
    """
    return tuple(
        {
            "name": f"search_{name}",
            "recipe": coupled,
            "overrides": (f"search.strategy={name}", f"search.effort_images={effort_images}"),
            "tables": {"strategies": label},
            "stages": UP_TO_TEST,
        }
        for name, label in ({"random": "random"} | STRATEGIES).items()
    )


def routers(coupled: str) -> tuple[dict, ...]:
    """Other routers of the main row's pair, fitted to the nets as they are, and one that is trained with them."""
    rows = {
        "margin": ("confidence, margin", ("dynamic.score=margin",)),
        "entropy": ("confidence, entropy", ("dynamic.score=entropy",)),
        "learned": ("learned afterwards", ("dynamic.router=learned", "dynamic.router_fit=afterwards")),
        "difficulty": ("difficulty, after little", ("dynamic.router=difficulty",)),
        "stem": ("difficulty, from the stem", ("dynamic.router=difficulty", "dynamic.router_place=stem")),
        "jointly": ("learned with the nets", ("dynamic.router=learned", "train.joint_rule.router=learned")),
    }
    return tuple(
        {"name": f"router_{name}", "recipe": coupled, "overrides": overrides, "tables": {"routers": label}}
        for name, (label, overrides) in rows.items()
    )


def training(coupled: str, apart: str, dataset: str, steps: int, little: tuple[str, ...]) -> tuple[dict, ...]:
    """Two supernets trained and searched apart, at equal steps in all and with as many each; pairs without distillation."""
    alone = ("dynamic.max_macs_fraction=None", "dynamic.max_accuracy_loss=0.01")
    rows: list[dict] = []
    for suffix, label, each in (("", "independent", steps // 2), ("_long", "independent, twice the steps", steps)):
        count = f"train.steps={each}"
        pair = {
            "name": f"apart{suffix}",
            "recipe": f"baselines.py:{dataset},cascade",
            "overrides": (f"cascade.little={{apart{suffix}_little}}", f"cascade.big={{apart{suffix}_big}}"),
            "tables": {"training": label},
            "stages": ("search", "evaluate"),
        }
        rows += [
            {"name": f"apart{suffix}_little", "recipe": apart, "overrides": (*little, *alone, count), "stages": APART},
            {"name": f"apart{suffix}_big", "recipe": apart, "overrides": (count,), "stages": APART},
            pair,
        ]
    # At equal steps it is a rival of the main table too.
    equal = rows[2]
    equal |= {"tables": {**equal["tables"], "main": "independently searched pair"}, "stages": None, "bench": True}
    together = {
        "name": "without_distillation",
        "recipe": coupled,
        "overrides": ("train.joint_rule.distillation=False", "train.joint_rule.big_distillation=False"),
        "tables": {"training": "co-trained", "loss": "without distillation"},
        "stages": UP_TO_TEST,
    }
    return tuple({"part": "training", **row} for row in (*rows, together))


def space(coupled: str, subnets: int) -> tuple[dict, ...]:
    """The coupled space with one kind of choice left."""
    fixed = {"width": "widths=(1.0,)", "depth": "depths=(3,)", "kernel": "kernels=(5,)", "expansion": "expands=(4,)"}
    few = {"depth": 16, "width": 16}  # subnets that the records can have at most
    return tuple(
        {
            "name": f"only_{name}",
            "recipe": coupled,
            "overrides": (
                *(f"supernet.{fixed[other]}" for other in fixed if other != name),
                f"collect.subnets={min(subnets, few.get(name, subnets))}",
            ),
            "tables": {"space": f"{name} only"},
            "stages": UP_TO_TEST,
        }
        for name in ("width", "depth", "kernel")
    )


def loss(coupled: str) -> tuple[dict, ...]:
    """The joint loss without one of its terms, or with one that it leaves out; without distillation it is a training's row.

    With distillation little's own term has big's soft targets in the place of labels. Without its own term a net learns by the
    consistency alone: big from little, which then has to learn the labels, or little from big.
    """
    changes = {
        **{f"without_{term}": (f"without L_{term}", {term: 0.0}) for term in ("little", "routing", "consistency")},
        "without_big": ("without L_big, little learns labels", {"big": 0.0, "distillation": False}),
        "labels_for_big": ("without distillation into big", {"big_distillation": False}),
        "labels_for_little": ("without distillation into little", {"distillation": False}),
        "efficiency": ("with an efficiency penalty, eta 0.1", {"efficiency": 0.1}),
    }
    return tuple(
        {
            "name": name,
            "recipe": coupled,
            "overrides": tuple(f"train.joint_rule.{key}={value}" for key, value in changed.items()),
            "tables": {"loss": label},
            "stages": UP_TO_TEST,
        }
        for name, (label, changed) in changes.items()
    )
