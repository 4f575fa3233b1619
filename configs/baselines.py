"""What searched pairs are compared with: one published network trained as usual, or two such runs and a threshold between them.

Lineage: MobileNetV3 (arXiv 1905.02244), MobileNetV2 (1801.04381), EfficientNet-B0 (1905.11946), FBNet (1812.03443), each
trained with the images, the augmentation, the batches and the epochs of configs/digits.py or configs/cifar10.py. The mode is
DATASET,NETWORK.
    dynnas run --config=configs/baselines.py:cifar10,mobilenet_v3_small --workdir=runs/small          # one GPU
    dynnas run --config=configs/baselines.py:cifar10,mobilenet_v3_large --workdir=runs/large
    dynnas run --config=configs/baselines.py:cifar10,cascade --config.cascade.little=runs/small \
        --config.cascade.big=runs/large --workdir=runs/cascade
    dynnas run --config=configs/baselines.py:cifar10,branchynet --workdir=runs/branchynet              # -Small with exits
    dynnas report --workdir=runs/cifar10 --baselines=runs/small,runs/large,runs/cascade
    dynnas run --config=configs/baselines.py:cifar10_tiny,mobilenet_v3_small --workdir=runs/small_tiny  # 2 CPU cores
Published nets divide the side of an image by 32. Of 32 pixels that would leave one pixel for the last third of the net, so
their first strides are left out (total_stride): divided by 8, they end with 4x4 pixels, as configs/cifar10.py does, those of
digits with 2x2. The tiny ones of cifar10 divide by 16 and are 0.35 times as wide (EfficientNet by its own rule; nobody published
a narrow FBNet: all its channels are multiplied).
Expected, cifar10_tiny: MobileNetV3-Small 53.7 %, -Large 36.8 %, their cascade 53.6 % (docs/baselines.md); the others were not
measured. MACs of the nets, in millions (digits, cifar10, cifar10_tiny): MobileNetV3-Small 4.8, 17.5, 1.2, -Large 16.8, 66.5, 3.7,
EfficientNet-B0 26.0, 116.2, 5.4, FBNet-A 17.8, 77.3, 3.4.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# File and mode of the recipe whose data and epochs are taken, and what the published networks become on its images.
DATASETS = {
    "digits": ("digits.py", "", {"total_stride": 4}),
    "digits_tiny": ("digits.py", "tiny", {"total_stride": 4, "width": 0.35}),
    "cifar10": ("cifar10.py", "", {"total_stride": 8}),
    "cifar10_tiny": ("cifar10.py", "tiny", {"total_stride": 16, "width": 0.35}),
}
NETWORKS = (
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0"),
    *("fbnet_a", "fbnet_b", "fbnet_c"),
)
DEFAULT = "mobilenet_v3_small"
OTHERS = ("branchynet", "cascade")  # the default with exits on its way, and two runs


def get_config(mode: str = "") -> ConfigDict:
    mode = {"": f"digits,{DEFAULT}", "tiny": f"digits_tiny,{DEFAULT}"}.get(mode, mode)
    dataset, _, network = mode.partition(",")
    if dataset not in DATASETS or network not in (*NETWORKS, *OTHERS):
        known = f"{', '.join(DATASETS)}; {', '.join((*NETWORKS, *OTHERS))}"
        raise ValueError(f"mode is {mode!r}, must be DATASET,NETWORK, such as cifar10,{DEFAULT}; known: {known}")
    file, inner, options = DATASETS[dataset]
    config = runpy.run_path(str(Path(__file__).with_name(file)))["get_config"](inner)
    smoothing = config.train.sandwich_rule.get("label_smoothing", 0.0)
    for section in ("supernet", "collect", "predict", "search"):
        del config[section]
    config.export.max_accuracy_loss = 1.0  # what int8 costs a rival is to be told, whatever it is
    if network == "cascade":
        return cascade(config, dataset)
    del config.dynamic, config.train["sandwich_rule"]
    config.train.label_smoothing = smoothing
    if network == "branchynet":
        config.exit_network = {"name": network, "network": DEFAULT, **options}
        config.dynamic = {"target_macs_fractions": (0.5, 0.65, 0.8), "deployed": 1}
    else:
        config.network = {"name": network, **options}
    config.report.title = f"{network} on {dataset}"
    return config


def cascade(config: ConfigDict, dataset: str) -> ConfigDict:
    """Two runs of this file on the same dataset; the pair's own target for the threshold."""
    del config["train"]
    config.cascade = {"little": placeholder(str), "big": placeholder(str)}
    config.dynamic = {key: value for key, value in config.dynamic.items() if key != "big_net"}
    config.report.title = f"A cascade of two networks on {dataset}"
    return config
