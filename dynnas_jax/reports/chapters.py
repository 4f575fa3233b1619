"""The chapters of the report of each kind of run: what each shows, in plain words, and which section it is."""

from __future__ import annotations

from typing import NamedTuple

from dynnas_jax import kinds


class Chapter(NamedTuple):
    """A part of the page."""

    heading: str
    explanation: str
    section: str  # of `sections.BUILDERS`


_SUPERNET = (
    Chapter(
        "Result",
        "A small network (<i>little</i>) answers first. Where it is unsure, a large one (<i>big</i>) answers instead, "
        "starting from the first layers that both share. <i>Dynamic</i> is the two together. The cost of an image is "
        "counted in multiply-accumulates (MACs); for dynamic it is the average over the test images. Latencies are means "
        "over the same test images, drawn at random. The interval tells how far the accuracy could move on another test "
        "set of this size.",
        "summary",
    ),
    Chapter(
        "When does little hand over?",
        "A router gives each image a score between 0 and 1. Little answers where the score is above the threshold; a low "
        "threshold is cheap, a high one leaves more to big. Where the router has to wait for little, an image passed on "
        "costs slightly more than big alone.",
        "thresholds",
    ),
    Chapter(
        "Which images are easy?",
        "Test images that little answered by itself, and images it passed on.",
        "samples",
    ),
    Chapter(
        "Other thresholds, and the best that routing could do",
        "Dynamic on the test images at fixed thresholds, beside the one in use. An <i>oracle</i> knows the labels: "
        "little answers exactly where it should. No router can be more accurate, and the second oracle is the cheapest of that "
        "accuracy: what lies between it and the row in use is what a better router could gain with these two nets. "
        "The calibration error is explained below.",
        "operating_points",
    ),
    Chapter(
        "Routed rightly and wrongly",
        "Little should answer an image where it is right. The four cases on the test images, and some images of each.",
        "cases",
    ),
    Chapter(
        "Which images leave early?",
        "Difficulty is told by big, whose answer no router sees: the third of the test images whose label big "
        "gives the most probability is <i>easy</i>, the third where it gives the least is <i>hard</i>.",
        "exits",
    ),
    Chapter("Class by class", "Accuracy on the test images of each class, and how many little answers.", "classes"),
    Chapter(
        "How far can the probabilities be trusted?",
        "Of all answers of which a net is 80 % sure, 80 % should be right. The calibration error is the mean distance "
        "between the two, over bins of equal width by the probability of the answer, each weighing as many images as it has. "
        "Dynamic has the probability of whichever net answered.",
        "calibration",
    ),
    Chapter(
        "The two architectures",
        "Each box is one block of the network, from the image on the left to the answer on the right. A dotted box "
        "is a block that this network skips and the other one has.",
        "archs",
    ),
    Chapter(
        "The search space",
        "Every dot is a subnet cut out of one trained supernet and measured on images held out from training. The "
        "line joins those that no other beats in both cost and accuracy; diamonds were found by the search for given "
        "budgets.",
        "records",
    ),
    Chapter(
        "The accuracy predictor",
        "The search asks a small model for the accuracy of a subnet instead of measuring it. Dots on the dashed line "
        "are guessed exactly; what counts for a search is the order, which Kendall's tau measures (1: same order, "
        "0: none).",
        "predictor",
    ),
    Chapter(
        "Training the supernet",
        "At each step the largest, the smallest and some random subnets are trained together on the same weights.",
        "training",
    ),
    Chapter(
        "Exported files",
        "The networks as LiteRT (TFLite) files, and as ONNX files where the device asks for them. Nets that stand in one "
        "file share their weights. <i>Logits off by</i> is the largest difference to the JAX network's raw outputs, "
        "<i>points lost</i> what the file is less accurate than JAX; <i>big_after_stem</i> starts from the layers little "
        "has run.",
        "exports",
    ),
    Chapter(
        "On devices",
        "Little and big alone, and dynamic, the whole decision: what was measured on this machine when the files were "
        "written, and what <code>dynnas bench</code> measured of the same files, here or on a board. Accuracies are of "
        "the files, on the test images.",
        "devices",
    ),
    Chapter("Configuration", "All settings of the run.", "settings"),
    Chapter(
        "How long it took",
        "Each stage from its start to its end, calls that were interrupted too; the report is being made.",
        "times",
    ),
    Chapter("Machine and versions", "Where the exported files were measured, and with which software.", "machine"),
)
_BY_SECTION = {chapter.section: chapter for chapter in _SUPERNET}
_NETWORK = (
    Chapter(
        "Result",
        "One fixed network, which answers every image. Its cost is counted in multiply-accumulates (MACs) of an image. Latencies "
        "are means over test images, drawn at random. The interval tells how far the accuracy could move on another test set "
        "of this size.",
        "summary",
    ),
    _BY_SECTION["classes"]._replace(explanation="Accuracy on the test images of each class."),
    _BY_SECTION["calibration"]._replace(
        explanation="Of all answers of which the network is 80 % sure, 80 % should be right. The calibration error is the mean "
        "distance between the two, over bins of equal width by the probability of the answer, each weighing as many images as "
        "it has."
    ),
    Chapter("Training", "The network learned the labels; held-out accuracies are of averaged weights.", "training"),
    Chapter(
        "Exported files",
        "The network as LiteRT (TFLite) files, and as ONNX files where the device asks for them. <i>Logits off by</i> is the "
        "largest difference to the JAX network's raw outputs, <i>points lost</i> what the file is less accurate than JAX.",
        "exports",
    ),
    _BY_SECTION["devices"]._replace(
        explanation="What was measured on this machine when the files were written, and what <code>dynnas bench</code> measured "
        "of the same files, here or on a board. Accuracies are of the files, on the test images."
    ),
    *(_BY_SECTION[name] for name in ("settings", "times", "machine")),
)
_GROWTH = (
    _NETWORK[0]._replace(
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
    *_NETWORK[1:3],
    _NETWORK[3]._replace(explanation="The training of the last network; held-out accuracies are of averaged weights."),
    *_NETWORK[4:],
)
_CASCADE = (
    Chapter(
        "Result",
        "Two networks that were trained apart. The small one (<i>little</i>) answers first; where it is unsure, the large one "
        "(<i>big</i>) reads the image anew, and costs all it costs on top. <i>Dynamic</i> is the two together. The cost of an "
        "image is counted in multiply-accumulates (MACs); for dynamic it is the average over the test images. Latencies are "
        "means over the same test images, drawn at random. The interval tells how far the accuracy could move on another "
        "test set of this size.",
        "summary",
    ),
    _BY_SECTION["thresholds"]._replace(
        explanation="Little gives each answer a score between 0 and 1. An image leaves early where the score is above the "
        "threshold; a low threshold is cheap, a high one leaves more to big. An image passed on costs little and big together."
    ),
    *(_BY_SECTION[name] for name in ("samples", "operating_points", "cases", "exits", "classes", "calibration")),
    _BY_SECTION["exports"]._replace(
        explanation="The networks as LiteRT (TFLite) files, and as ONNX files where the device asks for them. <i>Logits off "
        "by</i> is the largest difference to the JAX network's raw outputs, <i>points lost</i> what the file is less accurate "
        "than JAX."
    ),
    *(_BY_SECTION[name] for name in ("devices", "settings", "times", "machine")),
)
_EXPORTED = _BY_SECTION["exports"]._replace(
    explanation="What each exit adds is a function of its own, which goes on from what the exits before it computed; all share "
    "the weights of one file where the device allows it. <i>Logits off by</i> is the largest difference to the JAX network's raw "
    "outputs, <i>points lost</i> what the file is less accurate than JAX.",
)
_ON_DEVICES = _BY_SECTION["devices"]._replace(
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
_EXIT_END = (_EXPORTED, _ON_DEVICES, *(_BY_SECTION[name] for name in ("settings", "times", "machine")))
_MULTI_EXIT = (
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
    _BY_SECTION["training"]._replace(
        explanation="At each step the largest, the smallest and random networks are trained together on the same weights, every "
        "exit of each; a loss is the sum over the exits, and a held-out accuracy that of the last one."
    ),
    *_EXIT_END,
)
_EXIT_NETWORK = (
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
_SLIMMABLE = (
    Chapter(
        "Result",
        "A network that may run at any of several widths, and gates that look at an image's features and choose how wide what "
        "follows runs. Its cost is counted in multiply-accumulates (MACs), on average over the test images. The paths at the "
        "same MACs: what the best nets of fixed widths out of the same supernet reach there. The interval tells how far the "
        "accuracy could move on another test set of this size.",
        "gate_summary",
    ),
    Chapter("What the gates choose", "How the ratios are spread over the test images.", "gate_spread"),
    Chapter("Which images are easy?", "Test images that cost the least and the most.", "gate_samples"),
    _BY_SECTION["training"]._replace(
        explanation="At each step the widest path learns the labels, random ones what averaged weights of the widest say, and "
        "the narrowest the mean of all these. Held-out accuracies are of the ends."
    ),
    _BY_SECTION["exports"]._replace(
        explanation="<i>to_gate</i> is what stands in front of the gate, with it; each path goes on from what that leaves. "
        "<i>Logits off by</i> is the largest difference to the JAX network's raw outputs."
    ),
    _BY_SECTION["devices"]._replace(
        explanation="The whole decision: what was measured on this machine when the files were written, and what "
        "<code>dynnas bench</code> measured of the same files, here or on a board."
    ),
    *(_BY_SECTION[name] for name in ("settings", "times", "machine")),
)


_EAS = (
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
        "none is left the likeliest subnet is cut down, choice by choice, until it fits.",
        "superclass_budgets",
    ),
    Chapter(
        "With and without superclass dropout",
        "This run beside others of the same recipe, taken in by <code>dynnas report --baselines</code>.",
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
    _BY_SECTION["training"]._replace(
        explanation="At each step the largest, the smallest and some random subnets are trained together on the same weights; "
        "held-out accuracies are by the logits of each image's superclass alone.",
    ),
    _BY_SECTION["exports"]._replace(
        explanation="A file for every superclass, whose head knows its classes alone. <i>Logits off by</i> is the largest "
        "difference to the JAX network's raw outputs, <i>points lost</i> what the file is less accurate than JAX."
    ),
    *(_BY_SECTION[name] for name in ("settings", "times", "machine")),
)


def of(kind: kinds.Kind) -> tuple[Chapter, ...]:
    """The chapters of a kind of run, in order."""
    return {
        "supernet": _SUPERNET,
        "network": _NETWORK,
        "cascade": _CASCADE,
        "multi_exit": _MULTI_EXIT,
        "exit_network": _EXIT_NETWORK,
        "eas": _EAS,
        "slimmable": _SLIMMABLE,
        "growth": _GROWTH,
    }[kind.name]
