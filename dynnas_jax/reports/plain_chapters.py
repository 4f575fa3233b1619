"""The chapters of the reports of supernets, fixed networks and cascades: what each shows, in plain words, and its section."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Chapter(NamedTuple):
    """A part of the page."""

    heading: str
    explanation: str | Callable[[dict], str]  # or what the config of the run says
    section: str  # of `sections.BUILDERS`


SUPERNET = (
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
        "For each budget a subnet is searched with a small model, which tells accuracies that nobody has measured. Dots on the "
        "dashed line are guessed exactly; what counts for a search is the order, which Kendall's tau measures (1: same order, "
        "0: none).",
        "predictor",
    ),
    Chapter(
        "Training the supernet",
        "At each step subnets of many sizes, the largest and the smallest among them, are trained together on the same weights.",
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
        "Each stage from its start to its end, calls that were interrupted too.",
        "times",
    ),
    Chapter("Machine and versions", "Where the exported files were measured, and with which software.", "machine"),
)
BY_SECTION = {chapter.section: chapter for chapter in SUPERNET}
NETWORK = (
    Chapter(
        "Result",
        "One fixed network, which answers every image. Its cost is counted in multiply-accumulates (MACs) of an image. Latencies "
        "are means over test images, drawn at random. The interval tells how far the accuracy could move on another test set "
        "of this size.",
        "summary",
    ),
    BY_SECTION["classes"]._replace(explanation="Accuracy on the test images of each class."),
    BY_SECTION["calibration"]._replace(
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
    BY_SECTION["devices"]._replace(
        explanation="What was measured on this machine when the files were written, and what <code>dynnas bench</code> measured "
        "of the same files, here or on a board. Accuracies are of the files, on the test images."
    ),
    *(BY_SECTION[name] for name in ("settings", "times", "machine")),
)
CASCADE = (
    Chapter(
        "Result",
        "Two networks that were trained apart. The small one (<i>little</i>) answers first; where it is unsure, the large one "
        "(<i>big</i>) reads the image anew, and costs all it costs on top. <i>Dynamic</i> is the two together. The cost of an "
        "image is counted in multiply-accumulates (MACs); for dynamic it is the average over the test images. Latencies are "
        "means over the same test images, drawn at random. The interval tells how far the accuracy could move on another "
        "test set of this size.",
        "summary",
    ),
    BY_SECTION["thresholds"]._replace(
        explanation="Little gives each answer a score between 0 and 1. An image leaves early where the score is above the "
        "threshold; a low threshold is cheap, a high one leaves more to big. An image passed on costs little and big together."
    ),
    *(BY_SECTION[name] for name in ("samples", "operating_points", "cases", "exits", "classes", "calibration")),
    BY_SECTION["exports"]._replace(
        explanation="The networks as LiteRT (TFLite) files, and as ONNX files where the device asks for them. <i>Logits off "
        "by</i> is the largest difference to the JAX network's raw outputs, <i>points lost</i> what the file is less accurate "
        "than JAX."
    ),
    *(BY_SECTION[name] for name in ("devices", "settings", "times", "machine")),
)


def net_headline(evaluation: dict) -> str:
    """The first sentence of the page of a net that answers every image."""
    net = evaluation["net"]
    return (
        f"The network answers <b>{100 * net['accuracy']:.1f} %</b> of {evaluation['images']:,} test images rightly, at "
        f"{net['macs'] / 1e6:.3f} million MACs each."
    )


def pair_headline(evaluation: dict) -> str:
    """The same of a pair with a router."""
    little, big, dynamic = (evaluation[name] for name in ("little", "big", "dynamic"))
    return (
        f"The dynamic network answers <b>{100 * dynamic['accuracy']:.1f} %</b> of {evaluation['images']:,} test images "
        f"rightly at <b>{100 * dynamic['macs'] / big['macs']:.0f} %</b> of big's MACs; big alone reaches "
        f"{100 * big['accuracy']:.1f} %, little alone {100 * little['accuracy']:.1f} % at "
        f"{100 * little['macs'] / big['macs']:.0f} % of big's MACs."
    )
