// Moves the thresholds of a dynamic network and tells what it then does, from the scores and hits that the page holds.
(() => {
  "use strict";
  const root = document.currentScript.parentElement;
  const stored = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const score = stored.score.map((text) => new Float32Array(bytes(text).buffer)); // [S - 1][m], of all choices but the last
  const right = stored.right.map(bytes); // [S][m / 8], one bit an image
  const images = score[0].length;
  const spoken = root.querySelector("output");
  const tiles = [...root.querySelectorAll(".tile")].map((tile, i) => ({ ...stored.tiles[i], tile }));

  // As `dynamic.thresholds.evaluate`: the first choice whose score is strictly above its threshold answers, in float32.
  function evaluate(thresholds) {
    const limits = Float32Array.from(thresholds);
    const answered = right.map(() => 0);
    let hits = 0;
    for (let image = 0; image < images; image++) {
      let choice = 0;
      while (choice < limits.length && !(score[choice][image] > limits[choice])) choice++;
      answered[choice]++;
      hits += (right[choice][image >> 3] >> (image & 7)) & 1;
    }
    return { hits, answered };
  }

  function measured(tile, { hits, answered }) {
    if (tile.of === "accuracy") return hits / images;
    if (tile.of === "exit") return answered[tile.choice] / images;
    return answered.reduce((sum, count, choice) => sum + count * tile.spent[choice], 0) / images;
  }

  // The text of a number as the tables of the page have it: a tie goes to the even digit, toFixed takes it away from zero.
  function fixed(value, digits) {
    let text = value.toFixed(digits);
    const [whole, rest] = value.toFixed(20).split(".");
    if (/^50*$/.test(rest.slice(digits)) && Number(text.at(-1)) % 2) {
      text = digits ? `${whole}.${rest.slice(0, digits)}` : whole;
    }
    return text.replace(/^\d+/, (figures) => figures.replace(/\B(?=(\d{3})+$)/g, ","));
  }

  // The threshold of fewest decimals in [low, high), two neighbouring scores.
  function roundest(low, high) {
    for (let scale = 1; scale <= 1e12; scale *= 10) {
      const found = Math.ceil(low * scale) / scale;
      if (Math.fround(found) >= low && Math.fround(found) < high) return found;
    }
    return low;
  }

  function threshold(text) {
    const value = text.trim() ? Number(text.replace(",", ".")) : NaN;
    return value >= 0 && value <= 1 ? value : null;
  }

  class Dial {
    constructor(element, choice) {
      this.number = element.querySelector("input[type=text]");
      this.slider = element.querySelector("input[type=range]");
      this.refusal = element.querySelector("[role=alert]");
      this.track = element.querySelector(".track");
      this.used = stored.thresholds[choice];
      this.values = Float32Array.from(new Set(Float32Array.from(score[choice]).sort()));
      // One stop for each set of images that can leave; none for all of them where a score is 0.
      this.slider.min = this.values[0] > 0 ? 0 : 1;
      this.slider.max = this.values.length;
      this.set(this.used);
      this.track.style.setProperty("--used", this.share);
      this.slider.addEventListener("input", () => this.move(String(this.at(Number(this.slider.value)))));
      this.slider.addEventListener("change", link);
      this.number.addEventListener("change", () => this.move(this.number.value) && link());
      element.querySelector("button").addEventListener("click", () => this.move(this.used) && link());
    }

    at(stop) {
      if (stop === 0) return 0;
      return stop === this.values.length ? 1 : roundest(this.values[stop - 1], this.values[stop]);
    }

    get share() {
      return (this.slider.value - this.slider.min) / Math.max(this.slider.max - this.slider.min, 1);
    }

    // Takes the text of a threshold, or says why not; the numbers shown are then as they were.
    set(text) {
      const value = threshold(text);
      this.number.setAttribute("aria-invalid", value === null);
      if (value === null) {
        this.refusal.textContent = `“${text}” is not a threshold: give a number from 0 to 1. Shown is ${this.value}.`;
        return false;
      }
      this.refusal.textContent = "";
      this.value = value;
      this.number.value = text.trim();
      const above = this.values.findIndex((one) => one > Math.fround(value));
      this.slider.value = above < 0 ? this.values.length : above;
      this.slider.setAttribute("aria-valuetext", `threshold ${text.trim()}`);
      this.track.style.setProperty("--here", this.share);
      return true;
    }

    move(text) {
      const taken = this.set(text);
      if (taken) show();
      return taken;
    }
  }

  function show() {
    const point = evaluate(dials.map((dial) => dial.value));
    for (const { tile, ...what } of tiles) {
      const value = (measured(what, point) * what.factor) / what.divisor;
      const here = tile.querySelector(".here");
      here.value = String(value);
      here.textContent = fixed(value, what.digits) + what.unit;
    }
    spoken.value = tiles
      .map(({ tile }) => `${tile.querySelector("dt").textContent}: ${tile.querySelector(".here").textContent}`)
      .join("; ");
  }

  // The address of the page follows, so that it can be passed on as a link to an operating point.
  function link() {
    try {
      history.replaceState(null, "", `#threshold=${dials.map((dial) => dial.value).join(",")}`);
    } catch {
      // A page inside another one has no address of its own.
    }
  }

  function followLink() {
    const asked = /^#threshold=(.*)$/.exec(location.hash);
    if (!asked) return;
    const texts = asked[1].split(",");
    dials.forEach((dial, choice) => dial.set(texts.length === dials.length ? texts[choice] : asked[1]));
    show();
    root.scrollIntoView({ block: "center" });
  }

  const dials = [...root.querySelectorAll(".dial")].map((dial, choice) => new Dial(dial, choice));
  show();
  root.classList.remove("still");
  addEventListener("load", followLink);
  addEventListener("hashchange", followLink);
})();
