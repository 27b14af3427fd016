// SPDX-License-Identifier: Apache-2.0
// Small live charts in SVG, one minute wide. A chart is a figure with its numbers in words; the picture is for the
// eye only.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 58;
const SAMPLES = 60;

function draw(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent?.append(element);
  return element;
}

// 1, 2 or 5 times a power of ten, at least the value.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((m) => m * power).find((m) => m >= value);
}

export class Chart {
  // series: [{name, line: 0|1|2}] by their stroke; max: a fixed top, or 0 for one that follows the data; hold: what
  // says nothing repeats the last that was said.
  constructor(parent, title, series, { max = 0, unit = "", hold = false } = {}) {
    this.series = series;
    this.max = max;
    this.unit = unit;
    this.hold = hold;
    this.rows = [];
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    this.output = document.createElement("output");
    caption.append(title, this.output);
    this.svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    this.areas = series.map((s) => draw("path", { class: `a${s.line}` }, this.svg));
    this.lines = series.map((s) => draw("path", { class: `l${s.line}` }, this.svg));
    this.top = document.createElement("span");
    this.top.className = "top";
    this.top.setAttribute("aria-hidden", "true");
    figure.append(caption, this.svg, this.top);
    parent.append(figure);
    if (series.length === 1) return; // the title says it
    const legend = document.createElement("ul");
    for (const s of series) {
      const item = document.createElement("li");
      const sample = draw("svg", { viewBox: "0 0 18 8", "aria-hidden": "true" });
      draw("path", { class: `l${s.line}`, d: "M1 4H17" }, sample);
      item.append(sample, s.name);
      legend.append(item);
    }
    figure.append(legend);
  }

  // One sample of every series (null: nothing to say), and the words beside the title.
  push(values, words) {
    const last = this.rows.at(-1);
    this.rows.push(values.map((v, i) => (v === null && this.hold && last ? last[i] : v)));
    if (this.rows.length > SAMPLES) this.rows.shift();
    this.output.value = words;
    const seen = this.rows.flat().filter((v) => v !== null);
    const top = this.max || roundUp(Math.max(1, ...seen));
    this.top.textContent = `${top}${this.unit}`;
    this.series.forEach((_, i) => {
      const path = this.path(i, top);
      this.lines[i].setAttribute("d", path.line);
      this.areas[i].setAttribute("d", path.area);
    });
  }

  path(i, top) {
    let line = "";
    let area = "";
    let run = [];
    const close = () => {
      if (run.length === 0) return;
      if (run.length === 1) run.push([run[0][0] + 1, run[0][1]]);
      const points = run.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");
      line += `M${points}`;
      area += `M${run[0][0].toFixed(1)} ${HEIGHT}L${points}L${run.at(-1)[0].toFixed(1)} ${HEIGHT}Z`;
      run = [];
    };
    const first = SAMPLES - this.rows.length;
    this.rows.forEach((row, k) => {
      if (row[i] === null) {
        close();
        return;
      }
      const x = ((first + k) / (SAMPLES - 1)) * (WIDTH - 4) + 2;
      run.push([x, HEIGHT - 3 - (Math.min(row[i], top) / top) * (HEIGHT - 8)]);
    });
    close();
    return { line, area };
  }
}
