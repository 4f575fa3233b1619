import csv
import json
from html.parser import HTMLParser

import numpy as np
import pytest

from dynnas_jax.reports import artifacts, sections, tables
from dynnas_jax.reports.source import Source


class Cells(HTMLParser):
    """The texts of a table's cells, row by row, as a browser would read them."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.inside = tag in ("td", "th")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def test_summary_equals_a_recomputation_from_the_outputs(workdir):
    little, big, dynamic = tables.summary(artifacts.read(workdir))
    arrays = np.load(workdir / "evaluate" / "outputs.npz")
    answers = np.take_along_axis(arrays["prediction"], arrays["choice"][:, None], axis=1)[:, 0]
    right, big_right = answers == arrays["label"], arrays["prediction"][:, 1] == arrays["label"]
    assert little["accuracy"] == np.mean(arrays["prediction"][:, 0] == arrays["label"])
    assert big["accuracy"] == np.mean(big_right)
    assert dynamic["accuracy"] == np.mean(right)
    assert dynamic["exit_rate"] == np.mean(arrays["score"][:, 0] > np.float32(0.8))
    assert dynamic["dynamic_right_big_wrong"] == np.sum(right & ~big_right)
    assert dynamic["dynamic_wrong_big_right"] == np.sum(~right & big_right)
    cost = json.loads((workdir / "search" / "found.json").read_text())["pair"]["cost"]
    assert dynamic["macs"] == pytest.approx(np.where(arrays["choice"] == 0, *cost).mean(), rel=1e-12)
    assert little["exit_rate"] == ""
    assert big["dynamic_wrong_big_right"] == ""


def test_interval_is_wilsons_formula(workdir):
    row = tables.summary(artifacts.read(workdir))[2]
    p, n, z = row["accuracy"], 800, 1.959963984540054
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx((centre - half, centre + half), rel=1e-9)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (3, 9), (9, 3), (20, 20)])
def test_sign_test_equals_summed_binomials(gained, lost):
    import math

    n, extreme = gained + lost, min(gained, lost)
    tail = sum(math.comb(n, i) for i in range(extreme + 1)) / 2**n
    assert tables.sign_test(gained, lost) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)


def test_latencies_come_from_the_export(workdir):
    little, _, dynamic = tables.summary(artifacts.read(workdir))
    export = json.loads((workdir / "export" / "x86" / "export.json").read_text())
    assert little["latency_int8_ms"] == export["files"]["little_int8"]["latency_mean_ms"]
    assert dynamic["latency_fp32_ms"] == export["cascade"]["fp32"]["latency_mean_ms"]


def test_what_has_not_run_says_so(workdir):
    (workdir / "export" / "x86" / "export.json").unlink()
    rows = tables.summary(artifacts.read(workdir))
    cells = Cells(tables.html(rows, tables.summary_columns(artifacts.read(workdir)))).rows
    column = [line[cells[0].index("int8 (ms)")] for line in cells[1:]]
    assert column == ["not run"] * 3
    (workdir / "evaluate" / "evaluation.json").unlink()
    rows = tables.summary(artifacts.read(workdir))
    assert [row["accuracy"] for row in rows] == [None] * 3
    assert [row["macs"] for row in rows] == [1_412_096, 6_203_520, None]  # still known from the search


def test_text_is_aligned_and_holds_the_numbers(workdir):
    lines = tables.text(tables.summary(artifacts.read(workdir))).split("\n")
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["network", "accuracy", "MACs", "(M)", "params", "(k)", "fp32", "(ms)", "int8", "(ms)"]
    accuracy = json.loads((workdir / "evaluate" / "evaluation.json").read_text())["big"]["accuracy"]
    assert lines[2].split() == ["big", f"{100 * accuracy:.2f}", "%", "6.204", "287.3", "0.904", "0.407"]


def test_routers_are_listed_as_they_were_evaluated(workdir):
    (row,) = tables.routers(artifacts.read(workdir))
    cells = Cells(tables.html([row], tables.ROUTERS)).rows[1]
    assert cells[:4] == ["confidence (max_softmax)", "0.937", "–", "91.0 %"]  # held-out, all decisions were alike
    (workdir / "evaluate" / "evaluation.json").unlink()
    assert tables.routers(artifacts.read(workdir)) == []


def test_csv_reads_back(tmp_path):
    rows = [{"a": 0.1, "b": None}, {"a": 'x, "y"\nz', "b": 7}]
    with tables.write_csv(tmp_path / "deep" / "t.csv", rows).open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [{"a": "0.1", "b": ""}, {"a": 'x, "y"\nz', "b": "7"}]


def test_html_escapes_and_aligns_numbers():
    page = tables.html([{"key": "<script>", "value": 'a & "b"'}], tables.SETTINGS)
    assert "<script>" not in page
    assert Cells(page).rows == [["key", "value"], ["<script>", 'a & "b"']]
    row = dict.fromkeys(("precision", "accuracy", "agreement_with_jax", "exit_rate", "latency_ms", "latency_mean_ms"))
    assert '<td class="number">50.00 %</td>' in tables.html([row | {"accuracy": 0.5}], tables.CASCADES)


def test_settings_flatten_a_tree():
    tree = {"train": {"steps": 5, "schedule": {"peak": 0.1}}, "empty": {}, "names": ["a", 1], "off": None, "on": True}
    expected = {"train.steps": "5", "train.schedule.peak": "0.1", "empty": "{}", "names": '["a", 1]'}
    assert {row["key"]: row["value"] for row in tables.settings(tree)} == expected | {"off": "null", "on": "true"}


def test_exported_files_keep_order_and_count_operators(workdir):
    rows = tables.exported_files(artifacts.read(workdir).exports["x86"])
    assert [row["file"] for row in rows][:2] == ["little_fp32", "big_fp32"]
    assert rows[0]["operators"].startswith("14×CONV_2D, 5×DEPTHWISE_CONV_2D, 3×ADD")
    assert rows[0]["max_logit_difference"] == 4.1e-6
    assert rows[3]["max_logit_difference"] == ""  # int8 logits are not compared


@pytest.mark.parametrize(
    ("kind", "words", "header"),
    [
        ("supernet", "little first and big where little is unsure", "answered by little"),
        ("cascade", "little first and big where little is unsure", "answered by little"),
        ("exit_network", "exit after exit until one is sure enough", "answered by the first exit"),
        ("slimmable", "each image along the way that the gates pick for it", "average MACs (M)"),
    ],
)
def test_the_whole_decision_is_told_in_the_words_of_its_kind(workdir, tmp_path, kind, words, header):
    found = artifacts.read(workdir)._replace(config={kind: {}})
    page = sections.BUILDERS["exports"](Source(workdir, tmp_path / "made", found))
    _, _, table = page.partition(f"<p>The whole decision, {words}:</p>")
    headers = ["precision", "accuracy", "same answer as JAX", header, "median latency (ms)", "mean latency (ms)"]
    assert Cells(table).rows[0] == headers


def test_the_five_likeliest_stand_where_they_were_told(workdir):
    headers = lambda: [column.header for column in tables.summary_columns(artifacts.read(workdir))]  # noqa: E731
    evaluation = json.loads((workdir / "evaluate" / "evaluation.json").read_text())
    rows = tables.summary(artifacts.read(workdir))
    assert [row["top5_accuracy"] for row in rows] == [evaluation[row["network"]]["top5_accuracy"] for row in rows]
    assert "among the five likeliest" in headers()
    del evaluation["big"]["top5_accuracy"]  # as in a run from before it was told of pairs
    (workdir / "evaluate" / "evaluation.json").write_text(json.dumps(evaluation))
    assert "among the five likeliest" not in headers()


def test_a_router_s_file_has_no_accuracy():
    files = {
        "router_fp32": {"function": "router", "path": "a.tflite"},
        "little_fp32": {"function": "little", "path": "a.tflite"},
    }
    router, little = tables.exported_files({"files": files})
    assert (router["accuracy"], router["accuracy_loss"]) == ("", "")
    assert (little["accuracy"], little["accuracy_loss"]) == (None, None)
    cells = Cells(tables.html([router, little], tables.FILES)).rows
    place = cells[0].index("accuracy")
    assert [line[place] for line in cells[1:]] == ["–", "not run"]


def test_what_loses_more_than_a_point_is_told():
    files = {"a_fp32": {"path": "a_fp32.tflite"}} | {
        name: {"path": f"{name}.tflite", "accuracy_loss": loss}
        for name, loss in (("a", 0.01), ("b", 0.0234), ("c", -0.5))
    }
    assert tables.lossy_files({"files": files}) == ["b loses 2.3 points"]
