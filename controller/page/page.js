// The page: asks the controller every two seconds, and draws what it is told. No framework, nothing from elsewhere.
// Whatever it is told is text (`h` makes text nodes of it); the page's policy forbids everything else.
"use strict";

const EVERY = 2000, LOST = 3; // ms between questions; so many failures in a row are worth a word
const SVG = "http://www.w3.org/2000/svg";
const MARKS = {
  good: "M3 9l4 4 8-9", bad: "M4 4l10 10M14 4L4 14", held: "M6 4v10M12 4v10", open: "M9 4v6l4 2M9 1a8 8 0 1 0 .01 0", ended: "M3 9h12",
};
const WORDS = { open: "not known yet", held: "held", good: "no worse", bad: "worse", ended: "aborted or superseded" };
const VERDICTS = { Pass: ["good", "no worse"], Fail: ["bad", "worse"], Inconclusive: ["open", "not known yet"], NoData: ["held", "no data"] };

// -- small things ---------------------------------------------------------------------------------

const set = (node, given) => {
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  return node;
};
const fill = (node, children) => (node.append(...children.flat(9).filter((one) => one !== null && one !== undefined && one !== false)), node);
const h = (tag, given = {}, ...children) => fill(set(document.createElement(tag), given), children);
const s = (tag, given = {}, ...children) => fill(set(document.createElementNS(SVG, tag), given), children);
const mark = (tone) => s("svg", { class: `mark ${tone}`, viewBox: "0 0 18 18", "aria-hidden": "true" }, s("path", { d: MARKS[tone] || MARKS.open }));
const percent = (part) => (part === 0 ? "0 %" : part < 0.01 ? "< 1 %" : plain(part));
const plain = (part) => `${Number((100 * part).toPrecision(3))} %`;
const against = (part) => (part === 0 ? "none yet" : percent(part));
const exact = (part) => `${Number((100 * part).toPrecision(2))} %`;
const known = (value) => value !== null && value !== undefined;

function seconds(value) {
  if (!known(value)) return "–";
  if (value >= 60) return duration(value);
  if (value >= 1) return `${Number(value.toPrecision(3))} s`;
  return `${Number((1000 * value).toPrecision(3))} ms`;
}
function duration(value) {
  const total = Math.max(0, Math.round(value)), m = Math.floor(total / 60);
  if (total < 60) return `${total} s`;
  if (total < 3600) return total % 60 && m < 10 ? `${m} min ${total % 60} s` : `${m} min`;
  if (total < 172800) return `${Math.floor(m / 60)} h${m % 60 ? ` ${m % 60} min` : ""}`;
  return `${Math.floor(total / 86400)} d`;
}
function odds(log, line = -Infinity) {
  if (!known(log)) return "–";
  if (log > Math.log(1e6)) return "> 1 000 000 to 1";
  const value = Math.exp(log);
  if (value < 1.5) return "nothing";
  const words = `${Math.round(value).toLocaleString("en").replaceAll(",", " ")} to 1`;
  return log < line - 1e-4 && words === odds(line) ? `just under ${words}` : words; // `line`: what rolls back
}
let skew = 0; // of this machine's clock, ms
function age(value) {
  // one unit, as kubectl says it
  const [size, unit] = [[86400, "d"], [3600, "h"], [60, "min"]].find(([size]) => value >= 2 * size) ?? [1, "s"];
  return `${Math.max(0, Math.floor(value / size))} ${unit} ago`;
}
const ago = (iso) => age((Date.now() - skew - Date.parse(iso)) / 1000);
const time = (iso, words) => (iso ? h("time", { datetime: iso, title: new Date(iso).toLocaleString() }, words || ago(iso)) : "–");

function table(caption, heads, rows, given = {}) {
  // roles are said, since on a phone rows are laid out as cards
  return h("table", { role: "table", ...given }, h("caption", { class: "unseen" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads.map((one) => h("th", { scope: "col", role: "columnheader", class: one.number && "number" }, one.name ?? one)))),
    h("tbody", { role: "rowgroup" }, rows));
}
const row = (first, ...cells) => h("tr", { role: "row" }, h("th", { scope: "row", role: "rowheader" }, first), cells);
const cell = (given, ...children) => h("td", { role: "cell", ...given }, children);

function gauge(part, words, placebo) {
  const width = 110, x = (value) => Math.max(0, Math.min(1, value)) * (width - 2);
  return h("span", { class: "gauge" },
    s("svg", { width, height: 10, "aria-hidden": "true" }, s("rect", { class: "track", x: 0.5, y: 0.5, width: width - 1, height: 9, rx: 4.5 }),
      s("rect", { class: "fill", x: 1, y: 1, width: x(part), height: 8, rx: 4 }),
      known(placebo) && placebo > 0 && s("circle", { class: "dot", cx: 1 + x(placebo), cy: 5, r: 3 })),
    h("span", {}, words));
}

// -- plots ----------------------------------------------------------------------------------------

class Plot {
  // A figure that stays; `draw` renews what is in it. Lines: {name, class, x, y, step, area}.
  constructor(title, given = {}) {
    this.title = title;
    this.svg = s("svg", { class: "plot", role: "img" });
    this.key = h("ul", { class: "key" });
    this.rows = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, numbers` });
    this.more = h("details", {}, h("summary", {}, "As numbers", h("span", { class: "unseen" }, ` (${title})`)), this.rows);
    this.note = h("p", { class: "none" });
    this.figure = h("figure", given, h("figcaption", {}, h("h3", {}, title), this.key), this.svg, this.note, this.more);
    this.more.addEventListener("toggle", () => this.numbers());
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(() => this.what && this.draw(this.what)).observe(this.figure);
  }

  draw(what) {
    this.what = what;
    this.at = null;
    const there = what.lines.filter((line) => line.y.some(known));
    const empty = !there.length;
    this.svg.style.display = this.key.style.display = this.more.style.display = empty ? "none" : "";
    this.note.hidden = !empty;
    this.note.textContent = empty ? what.without : "";
    if (empty) return;
    this.lines = there;
    const width = Math.max(240, this.svg.clientWidth || 480), height = this.svg.clientHeight || 200;
    const all = there.flatMap((line) => line.y.filter(known)).concat(what.limit ? [what.limit.y] : []);
    const log = what.log, f = log ? Math.log : (value) => value;
    let [low, high] = what.range ?? [Math.min(...all), Math.max(...all)];
    if (log && !what.range) { low /= 1.15; high *= 1.15; }
    if (low === high) high = low + 1;
    const ticks = what.ticks ?? (log ? decades(low, high) : nice(low, high));
    const words = ticks.map(what.format);
    const left = 8 + 7 * Math.max(width > 500 ? what.letters ?? 0 : 0, ...words.map((word) => word.length)), right = 10, top = 16, bottom = 22;
    const [from, to] = what.span;
    const x = (value) => left + ((what.xlog ? Math.log(value / from) / Math.log(to / from) : (value - from) / (to - from || 1))) * (width - left - right);
    const y = (value) => height - bottom - ((f(Math.min(high, Math.max(low, value))) - f(low)) / (f(high) - f(low))) * (height - top - bottom);
    Object.assign(this, { x, y, width, height, left, right, top, bottom });
    const path = (line) => {
      let d = "", pen = false;
      line.x.forEach((value, i) => {
        if (!known(line.y[i])) { pen = false; return; }
        const px = x(value).toFixed(1), py = y(line.y[i]).toFixed(1);
        d += pen ? (line.step ? `H${px}V${py}` : `L${px} ${py}`) : `M${px} ${py}`;
        pen = true;
      });
      return d;
    };
    const bottomed = (line) => `${path(line)}V${y(low).toFixed(1)}H${x(line.x[line.y.findIndex(known)]).toFixed(1)}Z`;
    set(this.svg, { viewBox: `0 0 ${width} ${height}`, "aria-label": `${this.title}. ${what.words}` });
    this.svg.replaceChildren(
      ...ticks.map((value, i) => s("g", {}, s("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
        s("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, words[i]))),
      ...(what.xticks ?? spans(from, to, Math.min(8, (width - left) / 80))).filter((tick, i, list) => i === 0 || x(tick.at) - x(list[i - 1].at) > 34)
        .map((tick) => s("text", { x: Math.min(x(tick.at), width - 22), y: height - 5, "text-anchor": tick.at === from ? "start" : "middle" }, tick.word)),
      ...(what.changes ?? []).map((one) => s("line", { class: "change", x1: x(one.at), x2: x(one.at), y1: top, y2: height - bottom })),
      ...there.filter((line) => line.area).map((line) => s("path", { class: `area ${line.class}`, d: bottomed(line) })),
      ...there.map((line) => s("path", { class: `line ${line.class}`, d: path(line) })),
      ...(what.limit ? [s("line", { class: "limit", x1: left, x2: width - right, y1: y(what.limit.y), y2: y(what.limit.y) }),
        s("text", { class: "limit-word", x: left + 4, y: y(what.limit.y) - 5 }, what.limit.word)] : []),
      (this.cursor = s("line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" })),
    );
    this.say(null);
    this.numbers();
  }

  say(at) {
    // the key tells the newest values, or those under the pointer
    this.key.replaceChildren(...this.lines.map((line) => {
      const i = at === null ? (this.what.still ? -1 : line.y.findLastIndex(known)) : nearest(line, at);
      return h("li", {}, s("svg", { width: 20, height: 8, "aria-hidden": "true" }, s("path", { class: `line ${line.class}`, d: "M1 4H19" })),
        line.name, i >= 0 && known(line.y[i]) ? h("b", {}, ` ${this.what.tell(line.y[i])}`) : "");
    }), ...(at === null ? [] : [h("li", {}, this.what.where(at))]));
  }

  point(event) {
    if (!this.lines) return;
    let at = null;
    if (event) {
      const box = this.svg.getBoundingClientRect(), px = ((event.clientX - box.left) / box.width) * this.width;
      const line = this.lines.reduce((a, b) => (b.x.length > a.x.length ? b : a));
      at = line.x.reduce((best, value) => (Math.abs(this.x(value) - px) < Math.abs(this.x(best) - px) ? value : best), line.x[0]);
      set(this.cursor, { x1: this.x(at), x2: this.x(at), visibility: "visible" });
    } else set(this.cursor, { visibility: "hidden" });
    this.say(at);
  }

  numbers() {
    if (!this.more.open || !this.lines) return this.rows.replaceChildren();
    const longest = this.lines.reduce((a, b) => (b.x.length > a.x.length ? b : a)).x;
    const each = Math.ceil(longest.length / 40);
    const at = longest.filter((_, i) => (longest.length - 1 - i) % each === 0);
    this.rows.replaceChildren(table(this.title, [this.what.axis, ...this.lines.map((line) => ({ name: line.name, number: true }))],
      at.map((value) => row(this.what.where(value), this.lines.map((line) => {
        const i = nearest(line, value);
        return cell({ class: "number" }, i >= 0 && known(line.y[i]) ? this.what.tell(line.y[i]) : "–");
      })))));
  }
}

function nearest(line, at) {
  // of a line that stands still between its points, the last one before
  let found = -1;
  line.x.forEach((value, i) => {
    if (line.step ? value <= at : found < 0 || Math.abs(value - at) < Math.abs(line.x[found] - at)) found = i;
  });
  return found;
}
function nice(low, high) {
  const raw = (high - low) / 4, power = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}
function decades(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const n of high / low > 300 ? [1] : high / low > 20 ? [1, 3] : [1, 2, 3, 5]) if (n * 10 ** power >= low && n * 10 ** power <= high) found.push(Number((n * 10 ** power).toPrecision(6)));
  return found.length > 1 ? found : [low, high].map((value) => Number(value.toPrecision(2)));
}
function spans(from, to, most) {
  const step = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400].find((n) => (to - from) / n <= most) ?? 172800;
  const found = [];
  for (let at = 0; at <= to - from; at += step) found.push({ at: from + at, word: at === 0 ? "0" : duration(at) });
  return found;
}

// -- the list -------------------------------------------------------------------------------------

class List {
  constructor() {
    this.tone = null;
    this.made = new Map();
    this.buttons = h("div", { class: "bar", role: "group", "aria-label": "Which runs" });
    this.input = h("input", { type: "search", placeholder: "Find by name or namespace", "aria-label": "Find by name or namespace", oninput: () => this.update(this.told) });
    this.body = h("tbody", { role: "rowgroup" });
    this.count = h("p", { class: "small muted" });
    const made = table("Canary runs", ["Canary", "Is it worse?", { name: "Requests to it" }, "Evidence against it", "Since"], [], { class: "runs cards" });
    made.tBodies[0].replaceWith(this.body);
    this.table = made;
    this.none = h("p", { class: "none" });
    this.title = h("h1", { tabindex: "-1" }, "Canary runs");
    this.root = h("div", {}, this.title, this.buttons, made, this.none, this.count);
  }

  update(told) {
    if (!told) return;
    this.told = told;
    document.title = "Canary runs – Serin";
    this.filter(told.counts);
    const words = this.input.value.trim().toLowerCase();
    const runs = told.runs.filter((run) => (!this.tone || run.tone === this.tone) && (!words || `${run.namespace}/${run.name} ${run.canary}`.toLowerCase().includes(words)));
    const rows = runs.map((run) => this.row(run));
    // rows that have not changed stay where they are, so that focus and selection do
    if (rows.length !== this.body.children.length || rows.some((one, i) => this.body.children[i] !== one)) {
      const focused = document.activeElement;
      this.body.replaceChildren(...rows);
      if (focused && focused !== document.activeElement && this.body.contains(focused)) focused.focus({ preventScroll: true });
    }
    this.table.style.display = rows.length ? "" : "none";
    this.none.textContent = rows.length ? "" : told.runs.length ? "No run is like this." : "No canary has been asked for yet. Annotate a Deployment with serin.dev/canary-of, and its run appears here.";
    this.count.textContent = told.of > told.runs.length ? `The newest ${told.runs.length} of ${told.of} runs; kubectl serin list has all.` : "";
  }

  filter(counts) {
    if (!this.tones) {
      this.tones = new Map([null, "open", "held", "good", "bad", "ended"].map((tone) => {
        const button = h("button", { type: "button", class: tone, "aria-pressed": "false", onclick: () => { this.tone = tone; this.update(this.told); } });
        return [tone, button];
      }));
      this.buttons.append(...this.tones.values(), this.input);
    }
    const all = Object.values(counts).reduce((a, b) => a + b, 0);
    for (const [tone, button] of this.tones) {
      const count = tone ? counts[tone] : all, words = tone ? `${count} ${WORDS[tone]}` : `all ${count}`;
      if (button.dataset.words !== words) { button.dataset.words = words; button.replaceChildren(...(tone ? [mark(tone), " "] : []), words); }
      button.hidden = Boolean(tone) && !count && this.tone !== tone;
      button.setAttribute("aria-pressed", String(this.tone === tone));
    }
  }

  row(run) {
    const key = `${run.namespace}/${run.name}`, version = JSON.stringify(run), old = this.made.get(key);
    if (old && old.version === version) { old.since.replaceChildren(time(run.at)); return old.node; }
    const since = cell({ "data-name": "Since", class: "inline small muted" }, time(run.at));
    const node = row([h("a", { href: `#/${encodeURIComponent(run.namespace)}/${encodeURIComponent(run.name)}` }, run.name), h("span", { class: "small muted" }, run.namespace)],
      cell({}, h("span", { class: run.tone }, mark(run.tone), " ", h("span", { class: "word" }, run.word)), h("div", { class: "said" }, run.sentence)),
      cell({ "data-name": "Requests to it", class: "inline" }, run.live ? gauge(run.weight / 100, `${run.weight} %`) : h("span", { class: "muted" }, "none")),
      cell({ "data-name": "Evidence against it", class: "inline" }, run.live || run.part ? gauge(run.part, against(run.part)) : ""), since);
    this.made.set(key, { node, version, since });
    return node;
  }
}

// -- one run --------------------------------------------------------------------------------------

class One {
  constructor() {
    this.title = h("h1", { tabindex: "-1" });
    this.sub = h("p", { class: "sub" });
    this.plots = {
      evidence: new Plot("Evidence against the canary", { class: "wide" }),
      latency: new Plot("How long requests take", { class: "wide" }),
      weight: new Plot("Requests to the canary"),
      tail: new Plot("Slowest requests, of late"),
    };
    this.grid = h("div", { class: "plots" }, Object.values(this.plots).map((plot) => plot.figure));
    this.blocks = new Map();
    this.root = h("div", {}, h("a", { class: "back", href: "#/" }, "‹ All runs"), this.title, this.sub,
      this.block("answer"), this.block("steps"), h("h2", { class: "unseen" }, "Curves"), this.grid, this.block("checks"), this.block("checklist"), this.block("shadow"), this.block("ledger"),
      h("div", { class: "two" }, this.block("timeline"), this.block("type")), h("div", { class: "two" }, this.block("sure"), this.block("unseen")), this.block("peers"));
  }

  block(name) {
    const node = h("div");
    this.blocks.set(name, { node, version: "" });
    return node;
  }
  renew(name, told, build) {
    const block = this.blocks.get(name), version = JSON.stringify(told);
    if (block.version !== version) { block.version = version; block.node.replaceChildren(...[build()].flat().filter(Boolean)); }
  }

  update(run) {
    this.told = run;
    document.title = `${run.word} – ${run.canary} – Serin`;
    if (this.title.textContent !== run.canary) this.title.textContent = run.canary;
    this.sub.replaceChildren(`compared with ${run.stable} in namespace ${run.namespace}, behind VirtualService ${run.virtualService}. Run ${run.name}, asked for `, time(run.created), `. ${run.policy}`);
    this.renew("answer", [run.tone, run.word, run.sentence, run.next], () => h("section", { class: `answer ${run.tone}`, "aria-label": "The answer" },
      h("h2", { class: "word" }, mark(run.tone), run.word), h("p", {}, run.sentence), run.next.map((one) => h("p", { class: "next" }, h("b", {}, "Next: "), one))));
    this.renew("steps", [run.steps, run.weight, run.live, run.tone, run.phase], () => this.steps(run));
    this.draw(run);
    this.renew("checks", [run.checks, run.counted], () => this.checks(run));
    this.renew("shadow", run.shadow, () => run.shadow && this.shadow(run.shadow));
    this.renew("ledger", [run.ledger, run.alpha], () => this.ledger(run));
    this.renew("timeline", [run.weights, run.created], () => this.timeline(run));
    this.renew("type", run.commands, () => run.commands.length && h("section", { class: "panel" }, h("h2", {}, "What you can type"),
      h("ul", { class: "type" }, run.commands.map((one) => { const [what, why] = one.split("   # "); return h("li", {}, why, h("code", {}, what)); }))));
    const lines = (name, title, told) => this.renew(name, told, () => told.length && h("section", { class: "panel" }, h("h2", {}, title),
      h("ul", { class: "plain" }, told.map((one) => h("li", {}, one.replace(/^- /, ""))))));
    lines("checklist", "Checklist: what failed", run.checklist);
    lines("sure", "How sure", run.sure);
    lines("unseen", "What could not have been seen", run.unseen);
    lines("peers", "What others would have done on the same requests", run.peers);
  }

  steps(run) {
    const reached = Math.max(0, ...run.weights.map((one) => one.weight)), promoted = run.phase === "Succeeded";
    const words = { now: "now", done: "passed", last: "ended here", "": run.live ? "to come" : "not reached" };
    const item = (word, state) => h("li", { class: state === "last" ? `last ${run.tone}` : state, "aria-current": state === "now" && "step" }, word, h("span", { class: "unseen" }, ` (${words[state]})`));
    const state = (step) => (step > reached ? "" : run.live && step === run.weight ? "now" : step === reached && !run.live && !promoted ? "last" : "done");
    return h("ol", { class: "steps", "aria-label": "Steps" }, run.steps.map((step) => item(`${step} %`, state(step))), item("promoted", promoted ? "done" : ""));
  }

  draw(run) {
    const trace = run.trace, first = run.weights.find((one) => one.weight > 0);
    const from = first ? Date.parse(first.at) / 1000 : 0;
    const t = trace?.t ? trace.t.map((one) => trace.began + one) : [];
    const last = run.weights.at(-1), zero = last ? Date.parse(last.at) / 1000 : 0;
    const to = Math.max(from + 5, t.at(-1) ?? 0, zero, run.live && first ? (Date.now() - skew) / 1000 : 0);
    const changes = run.weights.map((one) => ({ at: Date.parse(one.at) / 1000 })).filter((one) => one.at > from);
    const shared = { letters: 10, span: [from, to], changes, axis: "After", where: (at) => duration(at - from) };
    const without = !first ? "Nothing yet: no request has reached the canary."
      : "No curve here. Curves are in the memory of the replica that leads this run, or led it; this one does not, or was started since. All else on this page is in the run itself.";
    this.evidence(run, trace, t, { ...shared, without });
    this.latency(run, trace, t, { ...shared, without });
    const weights = run.weights.map((one) => ({ at: Math.max(from, Date.parse(one.at) / 1000), y: one.weight }));
    const now = weights.length ? [...weights, { at: to, y: weights.at(-1).y }] : [];
    this.plots.weight.draw({ ...shared, changes: [], without, range: [0, 100], ticks: [0, 25, 50, 75, 100], format: (y) => `${y} %`, tell: (y) => `${y} %`,
      words: `Now ${run.weight} percent; at most ${Math.max(0, ...run.weights.map((one) => one.weight))} percent.`,
      lines: [{ name: "canary", class: "canary", x: now.map((one) => one.at), y: now.map((one) => one.y), step: true, area: true }] });
    this.predictions(run, trace);
  }

  evidence(run, trace, t, shared) {
    const line = -Math.log(run.alpha), e = trace?.logE ?? [], placebo = trace?.placebo ?? [];
    const floor = (values) => values.map((one) => (known(one) ? Math.max(one, -1) : null));
    const high = Math.max(1.12 * line, ...e.filter(known).map((one) => 1.05 * one), ...placebo.filter(known));
    const ticks = [0, ...[1, 2, 3, 4, 5, 6].map((power) => power * Math.LN10)].filter((value) => value < high && Math.abs(value - line) > 0.5);
    const worst = Math.max(-1, ...e.filter(known));
    this.plots.evidence.draw({ ...shared, range: [-1, high], ticks, format: (y) => (y === 0 ? "none" : odds(y)), tell: (y) => odds(y, line),
      limit: { y: line, word: `${odds(line)} rolls back` },
      words: `Now ${odds(run.logE, line)}, at most ${odds(worst, line)}; ${odds(line)} rolls back.${known(run.placebo) ? ` The furthest placebo came to ${odds(run.placebo, line)}.` : ""}`,
      lines: [{ name: "furthest placebo (stable's own pods)", class: "placebo dashed thin", x: t, y: floor(placebo) }, { name: "canary", class: "canary", x: t, y: floor(e) }] });
  }

  latency(run, trace, t, shared) {
    const asked = run.checks.find((one) => one.kind === "Latency"), found = trace?.latency?.[0];
    this.plots.latency.figure.hidden = Boolean(asked) && !t.length; // what is above says why
    const styles = (level) => (level === (levels[main] ?? 0.95) ? "" : level > 0.95 ? " thin dashed" : " thin dotted");
    const levels = found?.levels ?? [], main = Math.max(0, levels.indexOf(0.95));
    const lines = levels.flatMap((level, i) => ["stable", "canary"].map((arm) => ({ name: `${arm} p${Number((100 * level).toPrecision(4))}`, class: `${arm}${styles(level)}`, x: t, y: found[arm][i] })));
    const newest = (arm) => seconds(found?.[arm][main]?.findLast(known));
    this.plots.latency.draw({ ...shared, without: asked ? "Too few requests yet: a 95th percentile wants twenty of each." : "The policy has no Latency check.", log: true, format: seconds, tell: seconds, lines,
      words: `p95 of late: stable ${newest("stable")}, canary ${newest("canary")}.` });
    const tail = found?.tail, bounds = tail?.bounds ?? [];
    this.plots.tail.figure.hidden = !tail;
    if (tail) this.plots.tail.draw({ still: true, span: [bounds[0], bounds.at(-1)], xlog: true, axis: "Longer than", where: seconds, log: true, range: [1e-3, 1], ticks: [0.001, 0.01, 0.1, 1],
      format: (y) => `${Number((100 * y).toPrecision(2))} %`, tell: percent, xticks: decades(bounds[0], bounds.at(-1)).map((at) => ({ at, word: seconds(at) })),
      words: "The share of requests that take longer than a time, of both arms.", without: "",
      lines: ["stable", "canary"].map((arm) => ({ name: arm, class: arm, x: bounds, y: tail[arm].map((one) => (one > 0 ? one : null)) })) });
  }

  predictions(run, trace) {
    for (const found of trace?.predictions ?? []) {
      const name = `predictions ${found.check}`;
      if (!this.plots[name]) { this.plots[name] = new Plot(`What both predict, of late: ${found.check}`); this.grid.append(this.plots[name].figure); }
      const b = found.bounds, most = Math.max(...found.stable, ...found.canary);
      const x = [b[0], ...b.slice(0, -1).flatMap((one, i) => [one, b[i + 1]]), b.at(-1)], y = (arm) => [0, ...found[arm].flatMap((one) => [one, one]), 0];
      this.plots[name].draw({ still: true, span: [b[0], b.at(-1)], axis: "Prediction", where: (at) => String(Number(at.toPrecision(3))), range: [0, 1.05 * most], format: percent, tell: percent,
        xticks: nice(b[0], b.at(-1)).map((at) => ({ at, word: String(at) })), words: "The share of predictions at each value, of both arms.", without: "",
        lines: ["stable", "canary"].map((arm) => ({ name: arm, class: arm, x, y: y(arm), area: true })) });
    }
  }

  checks(run) {
    return h("section", { class: "panel" }, h("h2", {}, "Checks"), run.counted && h("p", { class: "small muted" }, run.counted), table("Checks", ["Check", "Canary", "What was seen", "Canary against stable"], run.checks.map((one) => {
      const [tone, word] = one.warming ? ["open", "warming up"] : VERDICTS[one.verdict] ?? ["open", one.verdict];
      return row([one.name, !one.required && h("span", { class: "small muted" }, " (not required)")],
        cell({ class: tone }, mark(tone), " ", h("span", { class: "word" }, word)),
        cell({}, h("ul", {}, one.clauses.map((clause) => h("li", {}, clause)))),
        cell({}, whisker(one)));
    }), { class: "checks cards" }));
  }

  shadow(told) {
    // what replayed requests say, and which of them differ most
    const [tone, word] = VERDICTS[told.verdict] ?? ["open", told.verdict], [low, high] = told.interval ?? [told.flips, told.flips];
    const facts = [["Requests, each answered by both versions", told.requests.toLocaleString("en").replaceAll(",", " ")],
      known(told.flips) && ["Answers that differ", known(told.interval) ? `${exact(told.flips)}; beyond the noise floor ${exact(low)} to ${exact(high)}` : exact(told.flips)], ["That may differ", exact(told.most)]].filter(Boolean);
    const top = 1.15 * Math.max(told.most, high ?? 0) || 1, x = (value) => 10 + (Math.max(0, value) / top) * 340;
    return h("section", { class: "panel" }, h("h2", {}, "Requests replayed on both versions"),
      h("p", { class: tone }, mark(tone), " ", h("span", { class: "word" }, `${told.name}: ${word}`)), h("p", {}, told.sentence),
      known(told.flips) && s("svg", { class: "whisker flips", viewBox: "0 0 360 44", role: "img", "aria-label": facts.map((one) => one.join(": ")).join(". ") },
        s("line", { class: "same", x1: 10, x2: 10, y1: 4, y2: 24 }), s("line", { class: "limit", x1: x(told.most), x2: x(told.most), y1: 4, y2: 24 }),
        s("line", { class: "span", x1: x(low), x2: x(high), y1: 14, y2: 14 }), s("circle", { class: "point", cx: x(told.flips), cy: 14, r: 5 }),
        s("text", { x: 4, y: 40 }, "as stable's own"), x(told.most) > 110 && s("text", { x: Math.min(x(told.most), 300), y: 40, "text-anchor": "middle" }, `${exact(told.most)} may`)),
      h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
      told.worst.length > 0 && h("h3", {}, "Most different"), told.worst.length > 0 && h("ul", { class: "worst" }, told.worst.map((one) => h("li", {}, one))));
  }

  ledger(run) {
    if (!run.ledger) return null;
    return h("section", { class: "panel" }, h("h2", {}, "What alpha is spent on"),
      h("p", { class: "small muted" }, `A canary within its margins is rolled back in at most ${plain(run.alpha)} of runs. Checks share that, and steps share each check's part: `,
        run.ledger.steps.map((step) => `${step.weight} % has ${percent(step.share)}`).join(", "), "."),
      table("How alpha is shared", ["Check", { name: "Share of alpha", number: true }, "Evidence, of what rolls back", { name: "Furthest placebo" }], run.ledger.checks.map((one) =>
        row(one.name, cell({ class: "number", "data-name": "share" }, percent(one.share)), cell({ "data-name": "evidence", class: "inline" }, gauge(one.part, against(one.part), one.placebo)),
          cell({ "data-name": "placebo" }, known(one.placebo) ? against(one.placebo) : "–"))), { class: "cards" }));
  }

  timeline(run) {
    const events = [{ at: run.created, what: "asked for" }, ...run.weights.map((one) => ({ at: one.at, what: `${one.weight} % of requests: ${one.reason}` }))].filter((one) => one.at);
    return h("section", { class: "panel" }, h("h2", {}, "Timeline"), table("Timeline", ["When", "After", "What"], events.map((one, i) =>
      row(time(one.at, new Date(one.at).toLocaleTimeString()), cell({ class: "muted" }, i ? duration((Date.parse(one.at) - Date.parse(events[i - 1].at)) / 1000) : ""), cell({}, one.what)))));
  }
}

function whisker(check) {
  // the estimate and its interval beside "as stable" and the margin
  const { same, margin, estimate, interval } = check;
  if (!known(same) || !known(estimate)) return h("span", { class: "small muted" }, check.allowed);
  const [a, b] = interval ?? [estimate, estimate], low = Math.min(same, margin, a), high = Math.max(same, margin, b), wide = high - low || 1;
  const x = (value) => 12 + ((value - low) / wide) * 166;
  return [s("svg", { class: "whisker", viewBox: "0 0 190 34", role: "img", "aria-label": `${check.name}: estimate ${Number(estimate.toPrecision(3))}, between ${Number(a.toPrecision(3))} and ${Number(b.toPrecision(3))}; as stable is ${same}, ${check.allowed}` },
    s("line", { class: "same", x1: x(same), x2: x(same), y1: 3, y2: 19 }), s("line", { class: "limit", x1: x(margin), x2: x(margin), y1: 3, y2: 19 }),
    s("line", { class: "span", x1: x(a), x2: x(b), y1: 11, y2: 11 }), s("circle", { class: "point", cx: x(estimate), cy: 11, r: 5 }),
    s("text", { x: x(same), y: 31, "text-anchor": x(same) < 40 ? "start" : x(same) > 150 ? "end" : "middle" }, "stable"),
    Math.abs(x(same) - x(margin)) > 62 && s("text", { x: x(margin), y: 31, "text-anchor": x(margin) < 40 ? "start" : x(margin) > 150 ? "end" : "middle" }, "margin"))];
}

// -- asking ---------------------------------------------------------------------------------------

const main = document.getElementById("main"), link = document.getElementById("link"), said = document.getElementById("said");
const list = new List();
let where = null, view = null, tag = null, timer = 0, failures = 0, last = "", asking = null;

function route() {
  const parts = location.hash.replace(/^#\/?/, "").split("/").filter(Boolean);
  let found = "view";
  try { if (parts.length === 2) found = `view/${parts.map((one) => encodeURIComponent(decodeURIComponent(one))).join("/")}`; } catch { /* no such run then */ }
  if (location.hash === "#main" || found === where) return;
  const before = where;
  where = found; tag = null; last = "";
  view = found === "view" ? list : new One();
  if (before !== null) { main.replaceChildren(view.root); window.scrollTo(0, 0); view.title.focus({ preventScroll: true }); }
  ask();
}

async function ask() {
  clearTimeout(timer);
  asking?.abort();
  const mine = (asking = new AbortController()), asked = where;
  const late = setTimeout(() => mine.abort(), 10000);
  try {
    const answer = await fetch(asked, { headers: tag ? { "If-None-Match": tag } : {}, signal: mine.signal, cache: "no-store" });
    if (asked !== where) return;
    if (answer.status === 404) gone();
    else if (answer.status === 200) { tag = answer.headers.get("ETag"); heard(await answer.json(), answer.headers.get("Date")); }
    else if (answer.status !== 304) throw new Error(`HTTP ${answer.status}`);
    else view.update(view.told);
    failures = 0;
    if (link.textContent !== "live") { link.textContent = "live"; link.className = ""; }
  } catch (error) {
    if (asked !== where || mine !== asking) return;
    failures += 1;
    if (failures === LOST) say("The controller does not answer.");
    if (failures >= LOST) { link.className = "lost"; link.textContent = "no answer; what you see is old"; }
  } finally {
    clearTimeout(late);
    if (mine === asking && !document.hidden) timer = setTimeout(ask, EVERY * Math.min(8, 2 ** Math.max(0, failures - LOST)));
  }
}

function heard(told, date) {
  if (date && Math.abs(Date.now() - Date.parse(date)) > 5000) skew = Date.now() - Date.parse(date);
  if (!view.root.isConnected) main.replaceChildren(view.root);
  view.update(told);
  document.body.dataset.shown = where; // for whoever waits for it
  // a screen reader hears of a change of the answer or the weight, and of nothing else
  const news = told.word ? `${told.canary}: ${told.word}, ${told.weight} percent of requests` : "";
  if (news && last && news !== last) say(news);
  last = news;
}
function gone() {
  if (main.querySelector(".gone")) return;
  main.replaceChildren(h("div", { class: "gone" }, h("h1", { tabindex: "-1" }, "There is no such run"), h("p", { class: "sub" }, "It may have been deleted: of each workload the newest runs are kept. ", h("a", { href: "#/" }, "All runs"))));
  document.title = "No such run – Serin";
}
const say = (words) => { said.textContent = words; };

window.addEventListener("hashchange", route);
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : ask()));
route();
