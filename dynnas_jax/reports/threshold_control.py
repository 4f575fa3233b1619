"""The threshold control of the report: moved in the browser, it tells what the dynamic network then does, exactly.

The page holds the scores and hits of the test images; `threshold_control.js` does the sums of `dynamic.thresholds.evaluate`.
Where no script runs, the values at the thresholds in use stand there.
"""

import base64
import html as markup
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynnas_jax.dynamic import thresholds
from dynnas_jax.reports import plots, tables
from dynnas_jax.reports.artifacts import Artifacts


class Tile(NamedTuple):
    """A number that follows the thresholds: `factor` / `divisor` times what is measured, with so many `digits`."""

    name: str
    of: str  # "accuracy", "exit" or "cost"
    unit: str
    digits: int
    factor: float = 1.0
    divisor: float = 1.0
    choice: int = 0  # whose share of the images it is, of "exit"
    spent: tuple[float, ...] = ()  # [S], what each choice spends in all, of "cost"


def html(
    score: np.ndarray,
    correct: np.ndarray,
    used: Sequence[float],
    *,
    names: Sequence[str],
    macs: Sequence[int],
    last_macs: int,
    latencies_ms: Mapping[str, Sequence[float]],
) -> str:
    """The control of a dynamic network of S choices, with its data and its script; its style is `CSS`.

    Args:
      score: float32[m, S] in [0, 1]; correct: bool[m, S].
      used: [S - 1], the thresholds in use.
      names: [S], of the choices; macs: [S], all MACs spent when choice s answers.
      last_macs: of the last choice where it answers alone.
      latencies_ms: [S] each, as `macs`, by what told them.

    Raises:
      ValueError: as `dynamic.thresholds.evaluate`.
    """
    tiles = _tiles(names, macs, last_macs, latencies_ms)
    dials = "".join(_dial(names, index, threshold) for index, threshold in enumerate(used))
    shown = "".join(_tile(tile, _value(tile, score, correct, used)) for tile in tiles)
    notes = (
        f"The track is the test images in order of their scores; {names[0]} answers those right of the handle. The mark is the "
        "threshold in use. The address of this page follows, as a link to what is shown."
    )
    if latencies_ms:
        notes += " A latency is expected from the means of the parts, by who answers; the decision between them is not in it."
    return _CONTROL.format(
        dials=dials,
        tiles=shown,
        notes=markup.escape(notes),
        data=_json(_data(score, correct, used, tiles)),
        script=Path(__file__).with_name("threshold_control.js").read_text(encoding="utf-8"),
    )


def latencies_ms(artifacts: Artifacts) -> dict[str, list[float]]:
    """What each choice of a pair takes in all, [2] milliseconds, by what told it.

    That is the latency table of the search; the means measured of the exported parts, for the target whose latencies stand
    in the summary; and what `dynnas bench` measured elsewhere, by the name of its results.
    """
    pair, target = artifacts.found["pair"], tables.main_target(artifacts.exports)
    found = {"by table": pair["latency_ms"]} if "latency_ms" in pair else {}
    export = artifacts.exports.get(target, {})
    for key in export.get("cascade", {}):
        means = {
            file["function"]: file.get("latency_mean_ms")
            for name, file in export["files"].items()
            if name == f"{file.get('function')}_{key}"
        }
        found[f"{target} {key.replace('_', ' ')}"] = _spent(means)
    for name, content in artifacts.benches.items():
        means = {part: section["latency_ms"].get("mean_ms") for part, section in content["sections"].items()}
        found[f"{name} {content['model']['precision']}"] = _spent(means)
    return {name: spent for name, spent in found.items() if spent}


def _spent(means: Mapping[str, float | None]) -> list[float] | None:
    """[2], from the latencies of the exported parts of a pair; None where one was not measured."""
    if "router" in means:  # it chooses before either has run
        first, *nets = (means.get(part) for part in ("router", "little_after_stem", "big_after_stem"))
        return None if None in (first, *nets) else [first + net for net in nets]
    parts = [means.get("little"), means.get("big_after_stem" if "big_after_stem" in means else "big")]
    return None if None in parts else [parts[0], sum(parts)]


def _tiles(
    names: Sequence[str], macs: Sequence[int], last_macs: int, latencies: Mapping[str, Sequence[float]]
) -> list[Tile]:
    spent = tuple(macs)
    return [
        Tile("accuracy", "accuracy", " %", 2, factor=100),
        Tile("average MACs", "cost", " M", _digits(max(spent) / 1e6, 3), divisor=1e6, spent=spent),
        Tile(f"of {names[-1]}'s MACs", "cost", " %", 1, factor=100, divisor=last_macs, spent=spent),
        *(Tile(f"answered by {name}", "exit", " %", 1, 100, choice=i) for i, name in enumerate(names[:-1])),
        *(
            Tile(f"latency, {name}", "cost", " ms", _digits(max(taken), 4), spent=tuple(taken))
            for name, taken in latencies.items()
        ),
    ]


def _digits(largest: float, at_most: int) -> int:
    """Decimals of a number up to `largest`, for five figures in all, which a tile has room for."""
    return int(np.clip(4 - np.floor(np.log10(largest)), 0, at_most)) if largest > 0 else at_most


def _value(tile: Tile, score: np.ndarray, correct: np.ndarray, used: Sequence[float]) -> float:
    point = thresholds.evaluate(score, correct, tile.spent or np.zeros(score.shape[1]), used)
    measured = {"accuracy": point.accuracy, "exit": point.exit_rate[tile.choice], "cost": point.average_cost}[tile.of]
    return measured * tile.factor / tile.divisor


def _tile(tile: Tile, value: float) -> str:
    shown = f"{value:,.{tile.digits}f}{tile.unit}"
    return _TILE.format(name=markup.escape(tile.name), value=value, shown=shown)


def _dial(names: Sequence[str], index: int, threshold: float) -> str:
    label = "Threshold" if len(names) == 2 else f"Threshold of {names[index]}"
    fill = {"label": label, "name": names[index], "used": _shortest(threshold)}
    return _DIAL.format(id=f"threshold-{index}", **{key: markup.escape(text) for key, text in fill.items()})


def _shortest(threshold: float) -> str:
    """The fewest decimals that are this threshold in float32."""
    return np.format_float_positional(np.float32(threshold), trim="-")


def _data(score: np.ndarray, correct: np.ndarray, used: Sequence[float], tiles: Sequence[Tile]) -> dict:
    """What the script reads: arrays as base64, scores as little-endian float32, hits as one bit an image, lowest first."""
    scores = np.asarray(score, "<f4").T[:-1]
    hits = np.packbits(np.asarray(correct, bool).T, axis=1, bitorder="little")
    return {
        "thresholds": [_shortest(threshold) for threshold in used],
        "score": [base64.b64encode(row.tobytes()).decode("ascii") for row in scores],
        "right": [base64.b64encode(row.tobytes()).decode("ascii") for row in hits],
        "tiles": [{key: value for key, value in tile._asdict().items() if key != "name"} for tile in tiles],
    }


def _json(content: dict) -> str:
    """JSON that ends no element and opens no comment, whatever its texts are."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


_CONTROL = """<div class="control still" role="group" aria-label="Threshold control">
<h3>Another threshold</h3>
<p class="unmoved">With scripts switched on there is a slider here. At the threshold in use:</p>
{dials}<output class="spoken" aria-live="polite"></output>
<dl>
{tiles}</dl>
<p class="notes">{notes}</p>
<script type="application/json">{data}</script>
<script>
{script}</script>
</div>
"""
_DIAL = """<div class="dial">
<div class="asked"><label for="{id}">{label}</label>
<input id="{id}" type="text" inputmode="decimal" autocomplete="off" spellcheck="false" aria-describedby="{id}-refused"
 value="{used}">
<button type="button">Back to {used}, in use</button></div>
<p id="{id}-refused" class="refused warning" role="alert"></p>
<div class="track"><input type="range" aria-label="{label}, from image to image" min="0" max="1" step="1"></div>
<div class="ends"><span>{name} answers all</span><span>{name} answers none</span></div>
</div>
"""
_TILE = """<div class="tile"><dt>{name}</dt><dd><data class="here" value="{value!r}">{shown}</data></dd>
<dd class="was"><data value="{value!r}">{shown}</data> in use</dd></div>
"""
CSS = f"""
.control {{ border-top: 1px solid var(--line); margin: 1.4rem 0 .6rem; padding-top: .2rem; }}
.control.still .dial, .control.still .was, .control.still .notes, .control:not(.still) .unmoved {{ display: none; }}
.asked {{ display: flex; flex-wrap: wrap; align-items: center; gap: .5rem .7rem; margin-top: .8rem; }}
.asked label {{ font-weight: 600; }}
.asked input, .asked button {{ font: inherit; color: inherit; background: var(--page); border: 1px solid var(--line);
  border-radius: 8px; padding: .35rem .75rem; }}
.asked input {{ width: 9.5rem; font-variant-numeric: tabular-nums; }}
.asked input[aria-invalid=true] {{ border-color: {plots.COLOURS["big"]}; }}
.asked button {{ cursor: pointer; color: var(--soft); }}
.control :focus-visible {{ outline: 3px solid {plots.COLOURS["dynamic"]}; outline-offset: 2px; border-radius: 8px; }}
.refused:empty {{ display: none; }}
.track {{ --here: 0; --used: 0; --inset: .75rem; --run: calc(100% - 1.5rem); position: relative; margin-top: .4rem; }}
.track::before {{ content: ""; position: absolute; top: .35rem; height: 1.8rem; width: 2px; margin-left: -1px;
  left: calc(var(--inset) + var(--run) * var(--used)); background: var(--soft); }}
.track input {{ appearance: none; -webkit-appearance: none; position: relative; display: block; width: 100%; height: 2.5rem;
  margin: 0; background: none; cursor: pointer; --at: calc(var(--inset) + var(--run) * var(--here));
  --split: linear-gradient(to right, {plots.COLOURS["big"]} var(--at), {plots.COLOURS["little"]} var(--at)); }}
.track input::-webkit-slider-runnable-track {{ height: .5rem; border-radius: .25rem; background: var(--split); }}
.track input::-moz-range-track {{ height: .5rem; border-radius: .25rem; background: var(--split); }}
.track input::-webkit-slider-thumb {{ -webkit-appearance: none; width: 1.5rem; height: 1.5rem; margin-top: -.5rem;
  border: 3px solid var(--card); border-radius: 50%; background: {plots.COLOURS["dynamic"]}; }}
.track input::-moz-range-thumb {{ box-sizing: border-box; width: 1.5rem; height: 1.5rem; border: 3px solid var(--card);
  border-radius: 50%; background: {plots.COLOURS["dynamic"]}; }}
.ends {{ display: flex; justify-content: space-between; gap: 1rem; color: var(--soft); font-size: .82rem; }}
.ends span + span {{ text-align: right; }}
.spoken {{ position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }}
.control dl {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .7rem; margin: 1rem 0; }}
.tile {{ background: var(--page); border-radius: 10px; padding: .6rem .8rem; font-variant-numeric: tabular-nums; }}
.tile dt {{ color: var(--soft); font-size: .82rem; line-height: 1.3; }}
.tile dd {{ margin: 0; }}
.here {{ font-size: clamp(1.05rem, 4.4vw, 1.3rem); font-weight: 600; white-space: nowrap; }}
.was, .notes {{ color: var(--soft); font-size: .82rem; }}
"""
