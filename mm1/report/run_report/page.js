"use strict";
// The charts and the questions of a report. What models and data sets say is only ever
// set as text.
const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const charts = [];

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

const css = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function short(value, percent) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  if (percent) return `${+(value * 100).toPrecision(4)}%`;
  for (const [least, unit, name] of [[1e9, 1e9, "B"], [1e6, 1e6, "M"], [1e4, 1e3, "k"]]) {
    if (size >= least) return `${+(value / unit).toPrecision(4)}${name}`;
  }
  if (size > 0 && size < 1e-3) return value.toExponential(3).replace(/\.?0*e/, "e");
  return `${+value.toPrecision(4)}`;
}

// --- Charts -------------------------------------------------------------------------

// What a run had done at a step, between the two that are known.
function at(clock, step) {
  const [steps, amounts] = clock;
  let low = 0;
  let high = steps.length - 1;
  if (step >= steps[high]) return amounts[high];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= step) low = middle;
    else high = middle;
  }
  const share = (step - steps[low]) / (steps[high] - steps[low]);
  return amounts[low] + share * (amounts[high] - amounts[low]);
}

function columns(line, axes) {
  const [steps, values] = data.curves[line.run][line.key];
  const clock = data.clocks[line.run][axes.x];
  const xs = [];
  const ys = [];
  steps.forEach((step, i) => {
    const x = clock ? at(clock, step) : step;
    if ((axes.logX && x <= 0) || (axes.logY && values[i] <= 0)) return;
    if (xs.length && x <= xs[xs.length - 1]) return;
    xs.push(x);
    ys.push(values[i]);
  });
  return [xs, ys];
}

// The nearest point of a line whose points lie elsewhere than the cursor.
function nearest(plot, series, index, x) {
  const xs = plot.data[0];
  const ys = plot.data[series];
  if (series === 0 || (ys[index] !== null && ys[index] !== undefined)) return index;
  let before = index;
  let after = index;
  const gone = (i) => ys[i] === null || ys[i] === undefined;
  while (before > 0 && gone(before)) before -= 1;
  while (after < xs.length - 1 && gone(after)) after += 1;
  if (gone(before)) return after;
  if (gone(after)) return before;
  return x - xs[before] <= xs[after] - x ? before : after;
}

const LOG_TICKS = [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 8]];

// Round ticks of a logarithmic axis, few in each power of ten where it spans many.
function logTicks(low, high) {
  let ticks = [];
  for (const multiples of LOG_TICKS) {
    ticks = [];
    const last = Math.ceil(Math.log10(high));
    for (let power = Math.floor(Math.log10(low)); power <= last; power += 1) {
      ticks.push(...multiples.map((m) => +(m * 10 ** power).toPrecision(3))
        .filter((tick) => low <= tick && tick <= high));
    }
    if (ticks.length >= 4) break;
  }
  return ticks.length >= 3 ? ticks : evenTicks(low, high);
}

// Where a range is too narrow for those.
function evenTicks(low, high) {
  const power = 10 ** Math.floor(Math.log10((high - low) / 3));
  const step = power * [1, 2, 5, 10].find((m) => (high - low) / (m * power) <= 6);
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high; i += 1) {
    ticks.push(+(i * step).toPrecision(6));
  }
  return ticks;
}

// A scale, and what its axis needs where it is logarithmic; `air` is a factor.
function logScale(air) {
  const range = (_, low, high) => {
    if (low === null) return [1, 10];
    return low === high ? [low / 2, high * 2] : [low / air, high * air];
  };
  return {
    scale: { distr: 3, range },
    axis: {
      splits: (_plot, _axis, low, high) => logTicks(low, high),
      filter: (_, ticks) => ticks,
    },
  };
}

const MANY = 200;
const LINEAR = { scale: { distr: 1 }, axis: {} };

function draw(chart, axes) {
  const lines = chart.lines.filter((line) => axes.x === "step"
    || data.clocks[line.run][axes.x]);
  const tables = lines.map((line) => columns(line, axes));
  const shown = lines.filter((_, i) => tables[i][0].length);
  const filled = tables.filter((table) => table[0].length);
  chart.place.replaceChildren();
  chart.plot = null;
  if (!shown.length) {
    chart.place.append(element("p", { className: "note" }, "nothing to show on this axis"));
    return;
  }
  const soft = css("soft");
  const grid = { stroke: css("line"), width: 1 };
  const axis = {
    stroke: soft, grid, ticks: grid, font: "11px system-ui, sans-serif",
  };
  const across = axes.logX ? logScale(1) : LINEAR;
  const up = axes.logY ? logScale(1.05) : LINEAR;
  const label = { step: "step", tokens: "tokens", images: "images", hours: "hours" };
  chart.plot = new uPlot({
    width: chart.place.clientWidth,
    height: chart.wide ? 320 : 230,
    padding: [10, 14, 0, 0],
    scales: {
      x: { time: false, ...across.scale },
      y: up.scale,
    },
    axes: [
      {
        ...axis,
        ...across.axis,
        size: 30,
        values: (_, ticks) => ticks.map((tick) => short(tick)),
      },
      {
        ...axis,
        ...up.axis,
        size: 58,
        values: (_, ticks) => ticks.map((tick) => short(tick, chart.percent)),
      },
    ],
    series: [
      { label: label[axes.x], value: (_, x) => (x === null ? "–" : short(x)) },
      ...shown.map((line, i) => ({
        label: line.name,
        stroke: css(line.tone),
        width: line.dashed ? 2.2 : 1.6,
        // a noisy line would hide the held-out one
        alpha: !line.dashed && filled[i][0].length > MANY ? 0.5 : 1,
        dash: line.dashed ? [5, 4] : undefined,
        points: line.dashed ? { show: true, size: 6, fill: css("card") } : {},
        value: (_, y) => (y === null || y === undefined ? "–" : short(y, chart.percent)),
      })),
    ],
    cursor: {
      dataIdx: nearest,
      drag: { x: true, y: false },
      points: { size: 7, width: 0, fill: (_, i) => css(shown[i - 1].tone) },
    },
    legend: {
      markers: { width: 3, dash: (_, i) => (shown[i - 1].dashed ? "dashed" : "solid") },
    },
  }, uPlot.join(filled), chart.place);
}

function addChart(place, chart, axes) {
  const drawn = element("div");
  const card = element(
    "figure", { className: chart.wide ? "card wide" : "card" },
    element("h3", {}, chart.title), drawn,
  );
  place.append(card);
  Object.assign(chart, { place: drawn, axes });
  charts.push(chart);
  draw(chart, axes);
}

function switchOf(name, text, axes, redraw) {
  const box = element("input", { type: "checkbox", name });
  box.addEventListener("change", () => { axes[name] = box.checked; redraw(); });
  return element("label", {}, box, text);
}

// The axes of a section's charts, and the charts.
function fill(place, list, ...more) {
  const axes = { x: "step", logX: false, logY: false };
  const redraw = () => charts.filter((chart) => chart.axes === axes)
    .forEach((chart) => draw(chart, axes));
  const known = (name) => data.clocks.some((clock) => clock[name]);
  const choices = ["step", ...["tokens", "images", "hours"].filter(known)];
  const chosen = element("select", { name: "x" }, ...choices.map(
    (name) => element("option", { value: name }, {
      step: "steps", tokens: "tokens seen", images: "images seen",
      hours: "hours of training",
    }[name]),
  ));
  chosen.addEventListener("change", () => { axes.x = chosen.value; redraw(); });
  place.append(element(
    "form", { className: "axes" },
    ...more,
    element("label", {}, "over ", chosen),
    switchOf("logX", "log x", axes, redraw),
    switchOf("logY", "log y", axes, redraw),
  ));
  list.forEach((chart) => addChart(place, chart, axes));
}

// Any figure of the logs, one at a time.
function fillFigures(place) {
  const tones = data.tones;
  const chart = (key) => ({
    title: key, wide: true,
    lines: data.names.map((name, run) => ({ run, key, name, tone: tones[run] }))
      .filter((line) => data.curves[line.run][key]),
  });
  const preferred = ["lr", "grad_norm"].find((key) => data.others.includes(key));
  const first = preferred || data.others[0];
  const chosen = element("select", { name: "figure" }, ...data.others.map(
    (key) => element("option", { value: key, selected: key === first }, key),
  ));
  const shown = chart(first);
  chosen.addEventListener("change", () => {
    Object.assign(shown, chart(chosen.value));
    shown.place.previousSibling.textContent = shown.title;
    draw(shown, shown.axes);
  });
  fill(place, [shown], element("label", {}, chosen));
}

for (const place of document.querySelectorAll("[data-plots]")) {
  const kind = place.dataset.plots;
  if (kind === "figures") fillFigures(place);
  else fill(place, data[kind]);
}
dark.addEventListener("change", () => charts.forEach((c) => draw(c, c.axes)));
new ResizeObserver(() => {
  for (const { plot, place } of charts) {
    if (plot && plot.width !== place.clientWidth && place.clientWidth) {
      plot.setSize({ width: place.clientWidth, height: plot.height });
    }
  }
}).observe(document.querySelector("main"));

// --- Questions ----------------------------------------------------------------------

const AT_ONCE = 20;
const loaded = {};
const waiting = {};

// Called by the files in answers/.
window.mm1Answers = (file, content) => {
  loaded[file] = content;
  waiting[file]?.forEach((then) => then(content));
};

function load(file, then, failed) {
  if (loaded[file]) { then(loaded[file]); return; }
  (waiting[file] ??= []).push(then);
  if (waiting[file].length > 1) return;
  const script = element("script", { src: file });
  script.addEventListener("error", () => { delete waiting[file]; failed(); });
  document.head.append(script);
}

const isRight = (given) => given.score >= 0.5;

function filters() {
  const several = data.names.length > 1;
  const made = { "all answers": () => true };
  data.names.forEach((name, run) => {
    const of = several ? `${name}: ` : "";
    made[`${of}right`] = (q) => q.given[run] && isRight(q.given[run]);
    made[`${of}wrong`] = (q) => q.given[run] && !isRight(q.given[run]);
  });
  if (several) {
    made["right in some runs only"] = (q) => {
      const known = q.given.filter((given) => given).map(isRight);
      return known.includes(true) && known.includes(false);
    };
    made["different answers"] = (q) =>
      new Set(q.given.filter((g) => g).map((g) => g.prediction)).size > 1;
  }
  return made;
}

// Text with the ends of its lines to be seen.
function exactText(text) {
  return text.split(/(\n)/).flatMap((piece) => (piece === "\n"
    ? [element("span", { className: "end" }, "⏎"), "\n"] : [piece]));
}

function exactPrompt(prompt, images) {
  const pieces = prompt.text.split("<image>");
  const shown = element("div", { className: "exact" });
  pieces.forEach((piece, i) => {
    shown.append(...exactText(piece));
    if (i === pieces.length - 1) return;
    const url = images[prompt.pictures[i]];
    if (!url) {
      shown.append(element("span", { className: "mark" }, "<image>"));
      return;
    }
    const picture = element("img", { src: url, alt: "<image>", title: `picture ${i + 1}` });
    picture.addEventListener("load", () => {
      const side = Math.max(picture.naturalWidth, picture.naturalHeight);
      if (side < 72) picture.classList.add("small");
    });
    shown.append(picture);
  });
  return shown;
}

function questionCard(question, images) {
  const several = data.names.length > 1;
  const answers = element("dl", { className: "answers" });
  const add = (name, text, look) => answers.append(
    element("dt", {}, name),
    element("dd", { className: look }, text.trim() || "(nothing)"),
  );
  add("true answer", [...new Set(question.truth)].join(" / "), "");
  question.given.forEach((given, run) => {
    if (!given) return;
    const graded = given.score === 0 || given.score === 1 ? "" : ` (${short(given.score)})`;
    add(
      several ? data.names[run] : "given", given.prediction + graded,
      isRight(given) ? "right" : "wrong",
    );
  });
  const prompts = question.prompts.flatMap((prompt, number) => {
    const own = data.names.filter((_, run) => question.given[run]?.prompt === number);
    const says = question.prompts.length > 1
      ? element("small", { className: "note" }, `prompt of ${own.join(", ")}`) : null;
    return [says, exactPrompt(prompt, images)].filter((each) => each);
  });
  return element(
    "article", { className: "card asked" },
    element("header", {}, element("b", {}, question.id)), ...prompts, answers,
  );
}

function contains(question, words) {
  const texts = [
    question.id, ...question.truth, ...question.prompts.map((p) => p.text),
    ...question.given.map((given) => given?.prediction ?? ""),
  ];
  return texts.some((text) => text.toLowerCase().includes(words));
}

function fillAnswers(place) {
  const made = filters();
  const set = element("select", { name: "set" }, ...data.answers.map(
    (each, i) => element("option", { value: i }, each.label),
  ));
  const filter = element("select", { name: "filter" }, ...Object.keys(made).map(
    (name) => element("option", { value: name }, name),
  ));
  const search = element("input", { type: "search", name: "search", placeholder: "containing" });
  const found = element("span", { className: "found" });
  const list = element("div", { className: "grid asked-list" });
  const more = element("button", { className: "more", type: "button" }, "Show more");
  const form = element("form", { className: "axes" }, set, filter, search, found);
  form.addEventListener("submit", (event) => event.preventDefault());
  place.append(form, list, more);

  function show(content) {
    const words = search.value.toLowerCase();
    const chosen = content.questions.filter(made[filter.value])
      .filter((question) => !words || contains(question, words));
    const gone = content.left_out
      ? `; ${content.left_out} lines without an answer or a score are left out` : "";
    found.textContent = `${chosen.length} of ${content.questions.length} questions${gone}`;
    list.replaceChildren();
    const next = () => {
      const begin = list.childElementCount;
      list.append(...chosen.slice(begin, begin + AT_ONCE)
        .map((question) => questionCard(question, content.images)));
      more.hidden = list.childElementCount >= chosen.length;
    };
    more.onclick = next;
    next();
  }
  function begin() {
    const { file } = data.answers[set.value];
    found.textContent = "loading …";
    load(file, (content) => {
      if (data.answers[set.value].file === file) show(content);
    }, () => {
      list.replaceChildren();
      found.textContent = `${file} is missing; it belongs beside this page`;
    });
  }
  more.hidden = true;
  for (const input of [set, filter]) input.addEventListener("change", begin);
  search.addEventListener("input", begin);
  new IntersectionObserver((entries, observer) => {
    if (entries.some((entry) => entry.isIntersecting)) {
      observer.disconnect();
      begin();
    }
  }, { rootMargin: "600px" }).observe(place);
}

const answersPlace = document.getElementById("answers");
if (answersPlace) fillAnswers(answersPlace);
document.body.dataset.ready = "yes";
