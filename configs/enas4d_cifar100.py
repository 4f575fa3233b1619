"""Networks of three exits for CIFAR-100: the recipe of CIFAR-10 with a larger head, label smoothing and, in full, more epochs.

Lineage: configs/enas4d_cifar10.py (ENAS4D, arXiv 2009.09182) and configs/cifar100.py, whose data these are.
    dynnas run --config=configs/enas4d_cifar100.py --workdir=runs/enas4d_cifar100              # one GPU
    dynnas run --config=configs/enas4d_cifar100.py:tiny --workdir=runs/enas4d_cifar100_tiny    # 2 CPU cores
Its rival, by the same trainer:
    dynnas run --config=configs/msdnet.py:cifar10 --config.data.name=cifar100 --workdir=runs/msdnet_cifar100
On other images of 32 pixels and 100 classes, those of Tiny ImageNet: --config.data.name=imagenet100_at32; tiny, seed 0, with
them: 16.1 to 17.3 % of the test images at 0.63 to 1.09 M MACs on average, single nets of their cost 16.4 to 16.5 %, in 14 minutes
beside other work. Neither mode has been run on CIFAR-100, where the full mode's report shows what others have published beside it
(PUBLISHED says from where).
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

# By label, (average millions of MACs, top-1 accuracy), all to a tenth of a point. HydraNet: its ResNets (CVPR 2018, Mullapudi
# et al.), off the plot of CIFAR-100 as github.com/hoangminhtoan/hoangminhtoan.github.io shows it (hydranet_experiment_1.png). Its
# axis says 1e6 where 1e9 must be meant: the plain ResNets beside them would have 0.05 to 0.76 million MACs, and ResNet-20 has 41.
# RANet and MSDNet, an exit for each image: the middle panel of imgs/dynamic_results.png of github.com/yangle15/RANet-pytorch.
PUBLISHED = {
    "HydraNet, read off a figure": (
        (52, 0.658),
        (118, 0.712),
        (184, 0.723),
        (251, 0.733),
        (317, 0.738),
        (384, 0.743),
        (582, 0.753),
    ),
    "RANet, read off a figure": ((20, 0.710), (30, 0.732), (40, 0.742), (50, 0.750), (70, 0.757)),
    "MSDNet, read off a figure": ((20, 0.689), (30, 0.723), (40, 0.731), (50, 0.742), (70, 0.748)),
}


def get_config(mode: str = "") -> ConfigDict:
    several, single = (
        runpy.run_path(str(Path(__file__).with_name(name))) for name in ("enas4d_cifar10.py", "cifar100.py")
    )
    config, source = several["get_config"](mode), single["get_config"](mode)
    config.data = source.data
    config.multi_exit.head = source.supernet.head
    config.train.sandwich_rule.label_smoothing = source.train.sandwich_rule.label_smoothing
    config.report.title = "CIFAR-100: networks of three exits"
    if mode != "tiny":
        config.train.steps = source.train.steps
        config.report.published = several["published"]("cifar100", PUBLISHED)
    return config
