"""Once-for-all's own training step and search, run from a checkout of their code: `peers.py` starts this file.

Needs PyTorch, torchvision, tqdm and PyYAML; nothing is downloaded, all weights are random. Reads one JSON line from stdin:
{"ofa": path of the checkout, "what": "own" | "sandwich" | "evolution", ...}. "own" and "sandwich" then speak as `torch_net.py`:
"own" is one batch through their `train_one_epoch` as their last phase has it (a teacher's forward pass, then 4 random subnets),
"sandwich" our rule on their net. "evolution" answers {"costs"}, then, for each line, with the seconds of one search.
"""

import contextlib
import io
import json
import random
import sys
import time
import types
import warnings

import numpy as np
import torch
from torch_net import device, macs, random_batch, sandwich, serve

SUBNETS, LABEL_SMOOTHING, WEIGHT_DECAY = 4, 0.1, 3e-5  # of their last phase


def build(task: dict):
    """Their supernet; its smaller depthwise kernels are cropped, as ours, not transformed."""
    from ofa.imagenet_classification.elastic_nn.modules.dynamic_op import DynamicSeparableConv2d
    from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3

    DynamicSeparableConv2d.KERNEL_TRANSFORM_MODE = None
    lists = {"ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4]}
    return OFAMobileNetV3(n_classes=task["classes"], dropout_rate=0.0, width_mult=task["width"], **lists)


def choices(content: dict) -> dict[str, list[int]]:
    """An arch file as their code has it: kernels and expansions of all 20 blocks, those of skipped ones do not count."""
    kernel, expand = (
        [value for row in content[what] for value in [*row, *[row[-1]] * (4 - len(row))]]
        for what in ("kernel", "expand")
    )
    return {"ks": kernel, "e": expand, "d": [len(row) for row in content["kernel"]]}


def optimizer(net):
    from ofa.utils import build_optimizer

    groups = [list(net.get_parameters(["bn", "bias"], mode=mode)) for mode in ("exclude", "include")]
    return build_optimizer(groups, "sgd", {"momentum": 0.9, "nesterov": True}, 0.01, WEIGHT_DECAY, "bn#bias")


def own_step(net, batch, task: dict):
    """A call is one batch through their loop over an epoch."""
    from ofa.imagenet_classification.elastic_nn.training.progressive_shrinking import train_one_epoch
    from ofa.imagenet_classification.networks import MobileNetV3Large
    from ofa.imagenet_classification.run_manager import RunManager
    from ofa.utils import cross_entropy_with_label_smoothing

    if device().type == "cpu":  # their loop moves each batch to a GPU
        torch.Tensor.cuda = lambda tensor: tensor
    largest = {"ks": 7, "expand_ratio": 6, "depth_param": 4}
    teacher = MobileNetV3Large(task["classes"], task["width"], dropout_rate=0, **largest).to(device())
    options = types.SimpleNamespace(kd_ratio=1.0, kd_type="ce", dynamic_batch_size=SUBNETS, teacher_model=teacher)
    manager = RunManager.__new__(RunManager)  # its data and log files stay out
    manager.net, manager.optimizer = net, optimizer(net)
    manager.train_criterion = lambda logits, labels: cross_entropy_with_label_smoothing(logits, labels, LABEL_SMOOTHING)
    manager.run_config = types.SimpleNamespace(train_loader=[batch], adjust_learning_rate=lambda *_: 0.01)
    epochs = iter(range(1, 10**9))

    def step():
        low = torch.autocast(device().type, torch.bfloat16, enabled=task["precision"] == "bfloat16")
        with low, contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            train_one_epoch(manager, options, next(epochs))

    return step


def sandwich_step(net, batch, task: dict):
    """A call is one step of our rule on their net."""
    moves = optimizer(net)
    largest, smallest = task["files"]["largest"], task["files"]["smallest"]
    draws = iter(range(10**9))

    def run(images, content):
        net.set_active_subnet(**choices(content or largest))
        return net(images)

    def step():
        others = [smallest, *task["random"][next(draws) % len(task["random"])]]
        sandwich(run, moves, batch, others, task["precision"])

    return step


@torch.no_grad()
def costs(net, files: dict[str, dict], image: torch.Tensor) -> dict[str, dict[str, int]]:
    """MACs and params of subnets, as PyTorch counts them in the nets their code extracts."""
    found = {}
    for name, content in files.items():
        net.set_active_subnet(**choices(content))
        subnet = net.get_active_subnet(preserve_weight=False).eval()
        found[name] = {"params": sum(p.numel() for p in subnet.parameters()), "macs": macs(subnet, image)}
    return found


@torch.no_grad()
def drawn_macs(net, image: torch.Tensor, draws: int = 16) -> int:
    """The mean MACs, forward, of the subnets that their step draws."""
    random.seed(0)
    found = []
    for _ in range(draws):
        net.sample_active_subnet()
        found.append(macs(net.eval(), image))
    return round(np.mean(found))


def training(task: dict) -> None:
    torch.backends.cudnn.benchmark = True
    memory = torch.channels_last if task["channels_last"] else torch.contiguous_format
    net = build(task).to(device(), memory_format=memory)
    arch = {"channels": 3, "resolution": task["resolution"], "classes": task["classes"]}
    images, labels = random_batch(arch, task["batch"])
    batch = images.contiguous(memory_format=memory), labels
    facts = {"costs": costs(net, task["files"], batch[0][:1])}
    step = (own_step if task["what"] == "own" else sandwich_step)(net.train(), batch, task)
    if task["what"] == "own":
        facts["step_macs_per_image"] = facts["costs"]["largest"]["macs"] + 3 * SUBNETS * drawn_macs(net, batch[0][:1])
        net.train()
    serve(facts, step)


def evolution(task: dict) -> None:
    from ofa.nas.accuracy_predictor import AccuracyPredictor, MobileNetArchEncoder
    from ofa.nas.efficiency_predictor import Mbv3FLOPsModel
    from ofa.nas.search_algorithm import EvolutionFinder

    encoder = MobileNetArchEncoder(image_size_list=task["resolutions"])
    finder = EvolutionFinder(
        Mbv3FLOPsModel(build(task)),
        AccuracyPredictor(encoder, device=device()),
        population_size=task["population"],
        max_time_budget=task["generations"],
    )
    count = finder.efficiency_predictor.get_efficiency  # in millions
    costs = {
        name: round(count({**choices(content), "image_size": content["resolution"]}) * 1e6)
        for name, content in task["files"].items()
    }
    print(json.dumps({"version": torch.__version__, "costs": costs}), flush=True)
    for seed, _ in enumerate(sys.stdin):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        start, cpu = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(sys.stderr):
            finder.run_evolution_search(task["budget"] / 1e6, verbose=False)
        print(json.dumps([time.perf_counter() - start, time.process_time() - cpu]), flush=True)


def main() -> None:
    warnings.simplefilter("ignore")
    task = json.loads(sys.stdin.readline())
    sys.path.insert(0, task["ofa"])
    (evolution if task["what"] == "evolution" else training)(task)


if __name__ == "__main__":
    main()
