"""The chapters of the reports of nets of several exits, nets that grow, slimmable nets, and supernets of superclasses."""

from __future__ import annotations

from dynnas_jax.reports import gate_words
from dynnas_jax.reports.plain_chapters import BY_SECTION, NETWORK, Chapter

_EXPORTED = BY_SECTION["exports"]._replace(
    explanation="What each exit adds is a function of its own, which goes on from what the exits before it computed; all share "
    "the weights of one file where the device allows it. <i>Logits off by</i> is the largest difference to the JAX network's raw "
    "outputs, <i>points lost</i> what the file is less accurate than JAX.",
)
_ON_DEVICES = BY_SECTION["devices"]._replace(
    explanation="What each exit adds, and dynamic, the whole decision: what was measured on this machine when the files were "
    "written, and what <code>dynnas bench</code> measured of the same files, here or on a board."
)
_EXIT_SHARES = Chapter(
    "Which exit answers?",
    "An image leaves at the first exit whose score exceeds its threshold. The cost of an exit is all that was spent until its "
    "answer.",
    "exit_shares",
)
_EXIT_SAMPLES = Chapter(
    "Which images are easy?", "Test images that left at each exit of the exported network.", "exit_samples"
)
_EXIT_END = (_EXPORTED, _ON_DEVICES, *(BY_SECTION[name] for name in ("settings", "times", "machine")))
MULTI_EXIT = (
    Chapter(
        "Result",
        "Networks of several exits: an image that is sure of its answer leaves early, any other goes on, and what was computed "
        "is used again. Each was found for a target of average cost (multiply-accumulates, MACs), with thresholds of its own, "
        "out of one supernet. The interval tells how far the accuracy could move on another test set of this size.",
        "exit_summary",
    ),
    _EXIT_SHARES,
    _EXIT_SAMPLES,
    Chapter(
        "The predictors",
        "The search asks small models for the reward of a network, its average accuracy lowered where its average cost exceeds "
        "the target, in place of measuring it; one for each target, from the same records.",
        "exit_predictors",
    ),
    BY_SECTION["training"]._replace(
        explanation="At each step the largest, the smallest and random networks are trained together on the same weights, every "
        "exit of each; a loss is the sum over the exits, and a held-out accuracy that of the last one."
    ),
    *_EXIT_END,
)
EXIT_NETWORK = (
    Chapter(
        "Result",
        "One network of several exits: an image that is sure of its answer leaves early, any other goes on. For each target of "
        "average cost (multiply-accumulates, MACs) there are thresholds of its own. The interval tells how far the accuracy "
        "could move on another test set of this size.",
        "exit_summary",
    ),
    _EXIT_SHARES,
    _EXIT_SAMPLES,
    Chapter(
        "Training",
        "Every exit learned the labels; held-out accuracies are of the last one, and averaged weights.",
        "training",
    ),
    *_EXIT_END,
)
GROWTH = (
    NETWORK[0]._replace(
        explanation="The last network that grew, which answers every image. Its cost is counted in multiply-accumulates (MACs) "
        "of an image. Latencies are means over test images, drawn at random. The interval tells how far the accuracy could move "
        "on another test set of this size."
    ),
    Chapter(
        "The networks one by one",
        "Depth is added stage by stage, where the features of a deeper stage are more important than those of the present one. "
        "Depth counts layers; params with running statistics, and memory (all of these and the outputs of all layers, for one "
        "image), are as the authors of this search count them. Carbon is that of the electricity the training took.",
        "growth_networks",
    ),
    Chapter(
        "Which stages grew?",
        "In each iteration a temporary network has more modules in <i>all</i> stages. A stage whose importance is higher there "
        "grows, any other stays as it is.",
        "growth_decisions",
    ),
    *NETWORK[1:3],
    NETWORK[3]._replace(explanation="The training of the last network; held-out accuracies are of averaged weights."),
    *NETWORK[4:],
)
SLIMMABLE = (
    Chapter(
        "Result",
        "A network that may run at any of several widths, and gates that look at an image's features and choose how wide what "
        "follows runs. Its cost is counted in multiply-accumulates (MACs), on average over the test images. The paths at the "
        "same MACs: what the best measured nets of fixed widths out of the same supernet reach there. The interval tells how far "
        "the accuracy could move on another test set of this size.",
        "gate_summary",
    ),
    Chapter("What the gates choose", "How the ratios are spread over the test images.", "gate_spread"),
    Chapter("Which images are easy?", "Test images that cost the least and the most.", "gate_samples"),
    BY_SECTION["training"]._replace(explanation=gate_words.supernet),
    Chapter("Training of the gates", gate_words.gates, "gate_training"),
    BY_SECTION["exports"]._replace(
        explanation="<i>to_gate</i> is what stands in front of the first gate, with it; each other part goes on from what the "
        "one before it leaves. Behind a single gate these are the paths, the narrowest first. Of several gates <i>gate1_2</i> "
        "is what follows the second choice of the first, and <i>gate2_1_3</i> what follows the third of the second behind the "
        "first of the first; each has the next gate with it, the last ones answer. <i>Logits off by</i> is the largest "
        "difference to the JAX network's raw outputs, <i>points lost</i> what the file is less accurate than JAX."
    ),
    BY_SECTION["devices"]._replace(
        explanation="The whole decision: what was measured on this machine when the files were written, and what "
        "<code>dynnas bench</code> measured of the same files, here or on a board."
    ),
    *(BY_SECTION[name] for name in ("settings", "times", "machine")),
)
EAS = (
    Chapter(
        "Result",
        "For every superclass and budget a subnet of one supernet. <i>EAS</i> asks a generator, which answers at once; OFA-T "
        "searches for each superclass by a predictor of its own, OFA-V once for all; EAS-V is a generator that is not told the "
        "superclass; random subnets are as near to the budget as draws are. An image is answered by the logits of its "
        "superclass alone.",
        "superclass_summary",
    ),
    Chapter(
        "What it takes",
        "Seconds on the device to train what a method asks, beyond the supernet, and to find all subnets.",
        "superclass_costs",
    ),
    Chapter(
        "Are budgets kept?",
        "Several subnets are drawn for a scenario, those above the budget are left out, and one of the others is taken. Where "
        "none is left the likeliest subnet is cut down, choice by choice, until it fits. What is left of a budget then goes into "
        "raising choices, one by one.",
        "superclass_budgets",
    ),
    Chapter(
        "With and without superclass dropout",
        "This run beside others of the same recipe and other rates, taken in by <code>dynnas report --baselines</code>. "
        "The random subnets are the same in runs of one seed, and tell of the supernets alone.",
        "superclass_dropout",
    ),
    Chapter("The architectures", "What the generator chose.", "superclass_archs"),
    Chapter(
        "Sets of superclasses",
        "Unions that the generator was not trained on, by the logits of the union, beside the subnet of one search for all of "
        "the same budget.",
        "superclass_unions",
    ),
    Chapter(
        "Where the superclass is not known",
        "The smallest subnet tells it, then that superclass's own subnet answers; both are paid for. The general subnet is the "
        "one that a search for all finds at the same average cost.",
        "superclass_unknown",
    ),
    Chapter(
        "The predictors",
        "OFA-T and OFA-V ask small models for the accuracy of a subnet. Kendall's tau tells how well they rank records that they "
        "have not seen (1: same order, 0: none).",
        "superclass_predictors",
    ),
    Chapter(
        "The paper's tables and figures",
        "Those of the paper on elastic architecture search, and where this report has the same of its own data.",
        "superclass_paper",
    ),
    BY_SECTION["training"]._replace(
        explanation="At each step the largest, the smallest and some random subnets are trained together on the same weights; "
        "held-out accuracies are by the logits of each image's superclass alone.",
    ),
    BY_SECTION["exports"]._replace(
        explanation="A file for every superclass, whose head knows its classes alone. <i>Logits off by</i> is the largest "
        "difference to the JAX network's raw outputs, <i>points lost</i> what the file is less accurate than JAX."
    ),
    *(BY_SECTION[name] for name in ("settings", "times", "machine")),
)
