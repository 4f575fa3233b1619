"""What the evaluation of a finished tiny run says, against its nets run directly on the test split."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from dynnas_jax import finished, job, pipeline
from dynnas_jax.dynamic import protocol
from dynnas_jax.stages import evaluate
from dynnas_jax.workdir import Workdir, read_json

NETS = ("little", "big", "dynamic")


@pytest.fixture(scope="module")
def direct(tiny_run, quick_programs):
    """The evaluation, and what follows from the logits of the nets: columns little, big, dynamic."""
    ready = job.prepare(Workdir(tiny_run.workdir, pipeline.STAGES, tiny_run.config), tiny_run.config)
    whole, test = finished.found_pair(ready), ready.images.test
    with quick_programs():
        logits = [
            np.asarray(
                jax.jit(lambda v, x, net=net: net.apply(v, x)[0])(whole.variables[which], test.images), np.float64
            )
            for which, net in (("little", whole.pair.little), ("big", whole.pair.big))
        ]
    shares = [np.exp(one) / np.exp(one).sum(axis=1, keepdims=True) for one in logits]
    kept = shares[0].max(axis=1) > np.float32(whole.found["thresholds"][0])
    logits.append(np.where(kept[:, None], *logits))
    shares.append(np.where(kept[:, None], *shares))
    told = read_json(tiny_run.workdir / "evaluate" / "evaluation.json")
    right = np.stack([one.argmax(axis=1) == test.labels for one in logits], axis=1)
    cost = np.asarray(whole.found["cost"])
    return SimpleNamespace(
        told=told, logits=logits, shares=shares, kept=kept, right=right, label=test.labels, cost=cost
    )


def test_the_five_likeliest(direct):
    for name, logits in zip(NETS, direct.logits, strict=True):
        wanted = top_k_accuracy_score(direct.label, logits, k=5, labels=np.arange(10))
        assert direct.told[name]["top5_accuracy"] == wanted
        assert direct.told[name]["accuracy"] <= wanted


def test_calibration(direct):
    for name, share, right in zip(NETS, direct.shares, direct.right.T, strict=True):
        sure = share.max(axis=1)
        bins, error = direct.told["calibration"][name], 0.0
        for b in range(15):
            mine = (sure > b / 15) & (sure <= (b + 1) / 15)
            assert bins["images"][b] == mine.sum()
            if mine.any():
                assert bins["accuracy"][b] == pytest.approx(right[mine].mean())
                assert bins["probability"][b] == pytest.approx(sure[mine].mean(), abs=1e-5)
                error += mine.mean() * abs(right[mine].mean() - sure[mine].mean())
            else:
                assert bins["accuracy"][b] is None
        assert direct.told[name]["expected_calibration_error"] == pytest.approx(error, abs=1e-4)
        assert error > 0


def test_fixed_thresholds_and_the_one_in_use(direct):
    rows, sure = direct.told["operating_points"], direct.shares[0].max(axis=1)
    assert [row["threshold"] for row in rows] == [0.5, 0.7, 0.9, *direct.told["dynamic"]["thresholds"]]
    assert [row["chosen"] for row in rows] == [False, False, False, True]
    for row in rows:
        kept = sure > np.float32(row["threshold"])
        assert row["accuracy"] == np.where(kept, *direct.right.T[:2]).mean()
        assert row["macs"] == pytest.approx(np.where(kept, *direct.cost).mean())
        assert row["exit_rate"] == kept.mean()
    for key in ("accuracy", "top5_accuracy", "expected_calibration_error", "macs"):
        assert rows[-1][key] == direct.told["dynamic"][key]
    assert rows[-1]["exit_rate"] == direct.told["dynamic"]["exit_rate"][0]


def test_the_oracles(direct):
    little, big, _ = direct.right.T
    for row, stays in zip(direct.told["oracle"], (little, little | ~big), strict=True):
        assert row["accuracy"] == (little | big).mean()
        assert row["macs"] == pytest.approx(np.where(stays, *direct.cost).mean())
        assert row["exit_rate"] == stays.mean()
    assert [row["optimal"] for row in direct.told["oracle"]] == ["little_right", "little_right_or_both_wrong"]


def test_classes_difficulty_and_cases(direct):
    little = direct.right[:, 0]
    loss = -np.log(np.take_along_axis(direct.shares[1], direct.label[:, None], axis=1))[:, 0]
    hardness = np.empty(len(loss), int)
    hardness[np.argsort(loss)] = np.repeat([0, 1, 2], len(loss) // 3)
    case = np.select([direct.kept & little, direct.kept, ~little], [0, 1, 2], 3)
    for name, group, count in (("by_class", direct.label, 10), ("by_difficulty", hardness, 3), ("by_case", case, 4)):
        told = direct.told[name]
        assert told["images"] == np.bincount(group, minlength=count).tolist()
        for column, net in enumerate(NETS):
            wanted = [direct.right[group == i, column].mean() if (group == i).any() else None for i in range(count)]
            assert told[net] == wanted
        if name != "by_case":
            assert told["exit_rate"] == [direct.kept[group == i].mean() for i in range(count)]
    assert direct.told["by_case"]["optimal"] == "little_right"


def test_of_three_classes_the_five_likeliest_are_not_told():
    out = protocol.Outputs(
        score=np.float32([[0.95, 1], [0.8, 1], [0.6, 1], [0.1, 1]]),
        prediction=np.zeros((4, 2), np.int32),
        correct=np.ones((4, 2), bool),
        probability=np.full((4, 2), 0.5, np.float32),
        among_likeliest=np.ones((4, 2), bool),
        label_log_odds=np.zeros((4, 2), np.float32),
    )
    rows = evaluate.operating_points(evaluate.Tested({"thresholds": [0.3]}, (10, 30), out, np.zeros(4, int), 3))
    assert [row["macs"] for row in rows] == [15, 20, 25, 15]
    assert {row["expected_calibration_error"] for row in rows} == {0.5}
    assert not any("top5_accuracy" in row for row in rows)
