// Timeline drawing: lanes from top to bottom, slices under a pixel merged.

const ROW = { idle: 18, segment: 14, stream: 20, calls: 14, ops: 14, ranges: 14, python: 13 };
const RULER = 24;
const MARKS = 18;
const LABEL = 17;
const FONT = "11px system-ui, sans-serif";
const HUES = { ops: "--t-op", python: "--t-python", ranges: "--t-range", segment: "--c-graph-launch" };

// Colours of the current theme. A light-dark() property reads back unresolved, a used colour does not.
function readColours(host, classes) {
  const probe = document.createElement("span");
  probe.className = "probe";
  host.append(probe);
  const of = (variable) => {
    probe.style.color = `var(${variable}, var(--k-other))`;
    return getComputedStyle(probe).color;
  };
  const named = (name) => {
    if (name.startsWith("k-")) return of(`--${name}`);
    if (name === "h-call") return of("--t-call");
    return of(`--c-${name.replace(/^h-/, "")}`);
  };
  const colours = {
    paper: of("--paper"), raised: of("--raised"), line: of("--line"), ink: of("--ink"), soft: of("--soft"),
    focus: of("--focus"), mark: of("--c-host"),
    classes: classes.map(named),
    lanes: Object.fromEntries(Object.entries(HUES).map(([kind, variable]) => [kind, of(variable)])),
  };
  probe.remove();
  colours.text = new Map();
  return colours;
}

// Black or white, whichever reads better on `colour`.
function textOn(colours, colour) {
  if (!colours.text.has(colour)) {
    const [r, g, b] = colour.match(/[\d.]+/g).map(Number).map((v) => (v / 255) ** 2.2);
    colours.text.set(colour, 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.3 ? "#101214" : "#ffffff");
  }
  return colours.text.get(colour);
}

// Lanes with their place: {track, y, height, row} for each track shown; `total` is the height of the canvas.
function layout(data, isShown) {
  const lanes = [];
  let y = RULER + (data.marks.length ? MARKS : 0);
  for (const track of data.tracks) {
    if (!isShown(track)) continue;
    const row = ROW[track.kind];
    lanes.push({ track, label: y, y: y + LABEL, row, height: row * track.rows });
    y += LABEL + row * track.rows + 3;
  }
  return { lanes, total: y + 4 };
}

class Painter {
  constructor(canvas, data) {
    this.canvas = canvas;
    this.data = data;
    this.context = canvas.getContext("2d");
    this.widths = new Map();
  }

  resize(width, height) {
    const ratio = devicePixelRatio || 1;
    this.width = width;
    this.height = height;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.canvas.style.height = `${height}px`;
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  // `state`: {from, to, lanes, colours, selected, links, matched, hover}
  draw(state) {
    const { context: c, width, height } = this;
    this.state = state;
    this.scale = width / (state.to - state.from);
    c.fillStyle = state.colours.paper;
    c.fillRect(0, 0, width, height);
    c.font = FONT;
    c.textBaseline = "middle";
    this.steps();
    for (const lane of state.lanes) this.lane(lane);
    this.ruler();
    this.marks();
    this.selection();
  }

  x(time) { return (time - this.state.from) * this.scale; }

  steps() {
    const { context: c, state, data, height } = this;
    c.strokeStyle = state.colours.line;
    for (const step of data.steps) {
      for (const edge of [step.s, step.e]) {
        const x = Math.round(this.x(edge)) + 0.5;
        if (x < 0 || x > this.width) continue;
        c.beginPath();
        c.moveTo(x, RULER);
        c.lineTo(x, height);
        c.stroke();
      }
    }
    c.fillStyle = state.colours.raised;
    let open = -Infinity;
    for (const [start, end] of [...data.windows, [Infinity, Infinity]]) {
      const left = Math.max(0, this.x(open));
      const right = Math.min(this.width, this.x(start));
      if (right > left) c.fillRect(left, RULER, right - left, height - RULER);
      open = end;
    }
  }

  ruler() {
    const { context: c, state, data } = this;
    const zero = (data.steps.findLast((s) => s.s <= (state.from + state.to) / 2) || data.steps[0]).s;
    const wanted = (state.to - state.from) / Math.max(2, this.width / 110);
    const power = 10 ** Math.floor(Math.log10(wanted));
    const tick = [1, 2, 5, 10].map((m) => m * power).find((t) => t >= wanted);
    c.fillStyle = state.colours.paper;
    c.fillRect(0, 0, this.width, RULER);
    c.textAlign = "left";
    for (let t = zero + Math.ceil((state.from - zero) / tick) * tick; t < state.to; t += tick) {
      const x = Math.round(this.x(t)) + 0.5;
      c.strokeStyle = state.colours.line;
      c.beginPath();
      c.moveTo(x, RULER - 7);
      c.lineTo(x, RULER);
      c.stroke();
      c.fillStyle = state.colours.soft;
      c.fillText(this.tickText(t - zero, tick), x + 3, RULER / 2);
    }
    c.strokeStyle = state.colours.line;
    c.beginPath();
    c.moveTo(0, RULER + 0.5);
    c.lineTo(this.width, RULER + 0.5);
    c.stroke();
  }

  tickText(time, tick) {
    const [unit, size] = timeUnits.find(([, s]) => tick >= s || Math.abs(time) >= 1000 * s) || ["ns", 1];
    const digits = Math.max(0, -Math.floor(Math.log10(tick / size) + 1e-9));
    return `${(time / size).toFixed(Math.min(digits, 3))} ${unit}`;
  }

  // Where the numbers of the findings in view stand: over the middle of each, moved aside where they would overlap.
  places() {
    const inView = this.data.marks
      .map((mark) => ({ mark, x: this.x((mark.s + mark.e) / 2) }))
      .filter(({ x }) => x > -10 && x < this.width + 10)
      .sort((a, b) => a.x - b.x);
    let last = -Infinity;
    for (const place of inView) {
      place.x = Math.max(place.x, last + 20, 10);
      last = place.x;
    }
    let next = this.width - 10;
    for (const place of inView.reverse()) {
      place.x = Math.min(place.x, next);
      next = place.x - 20;
    }
    return inView;
  }

  marks() {
    const { context: c, state } = this;
    this.placed = this.places();
    c.fillStyle = state.colours.mark;
    for (const { mark } of this.placed) {
      const left = this.x(mark.s);
      c.fillRect(left, RULER + MARKS - 3, Math.max(1, this.x(mark.e) - left), 3);
    }
    c.textAlign = "center";
    for (const { mark, x } of this.placed) {
      c.fillStyle = state.colours.mark;
      c.beginPath();
      const half = mark.n < 10 ? 7 : 9;
      c.roundRect(x - half, RULER + 1, 2 * half, 14, 7);
      c.fill();
      c.fillStyle = textOn(state.colours, state.colours.mark);
      c.fillText(String(mark.n), x, RULER + 8.5);
    }
    c.textAlign = "left";
  }

  lane({ track, label, y, row }) {
    const { context: c, state } = this;
    track.lines.forEach((line, depth) => this.line(track, line, y + depth * row, row - 1));
    c.fillStyle = state.colours.soft;
    c.fillText(`${track.group} · ${track.label}`, 6, label + LABEL / 2 + 1);
  }

  // One row of slices. What falls into a pixel already painted is not painted again.
  line(track, line, y, height) {
    const { context: c, state } = this;
    const { from, to, colours, matched } = state;
    const flat = colours.lanes[track.kind];
    let painted = -1;
    for (let p = firstAfter(track, line, from); p < line.length; p++) {
      const i = line[p];
      if (track.start[i] >= to) break;
      const left = Math.max(0, this.x(track.start[i]));
      const right = Math.min(this.width, this.x(track.end[i]));
      const hit = matched && matched.has(track.n[i]);
      if (right < painted && !hit) continue;
      const wide = Math.max(1, right - left - (right - left > 3 ? 1 : 0));
      const colour = track.c ? colours.classes[track.c[i]] : flat;
      c.globalAlpha = matched && !hit ? 0.18 : track.c || track.kind === "segment" ? 1 : this.tint(track.n[i]);
      c.fillStyle = colour;
      c.fillRect(left, y, wide, height);
      painted = left + wide;
      if (wide > 26 && height > 10) this.text(track, i, left, wide, y + height / 2, colour, matched && !hit);
    }
    c.globalAlpha = 1;
  }

  // Neighbouring slices of one lane differ a little, always the same for one name.
  tint(name) { return 0.55 + 0.45 * (((name * 2654435761) >>> 0) / 2 ** 32); }

  text(track, i, left, wide, middle, colour, dimmed) {
    const { context: c, state, data } = this;
    c.globalAlpha = dimmed ? 0.35 : 1;
    const strong = (track.c || track.kind === "segment") && !dimmed;
    c.fillStyle = strong ? textOn(state.colours, colour) : state.colours.ink;
    const text = this.clipped(shortName(data, track.n[i]), wide - 8);
    if (text) c.fillText(text, left + 4, middle + 0.5);
  }

  clipped(text, room) {
    if (!this.widths.has(text)) this.widths.set(text, this.context.measureText(text).width);
    const whole = this.widths.get(text);
    if (whole <= room) return text;
    const kept = Math.floor((text.length * room) / whole) - 1;
    return kept > 1 ? `${text.slice(0, kept)}…` : "";
  }

  box({ track, i }) {
    const lane = this.state.lanes.find((l) => l.track === track);
    if (!lane) return null;
    const depth = track.y ? track.y[i] : 0;
    const left = this.x(track.start[i]);
    return { left, right: Math.max(left + 1, this.x(track.end[i])), top: lane.y + depth * lane.row, height: lane.row - 1 };
  }

  selection() {
    const { context: c, state } = this;
    if (!state.selected) return;
    const own = this.box(state.selected);
    c.strokeStyle = state.colours.ink;
    c.lineWidth = 1.5;
    for (const link of state.links) {
      const other = this.box(link);
      if (!own || !other) continue;
      const [upper, lower] = own.top < other.top ? [own, other] : [other, own];
      const x1 = upper.left;
      const y1 = upper.top + upper.height;
      const middle = (y1 + lower.top) / 2;
      c.beginPath();
      c.moveTo(x1, y1);
      c.bezierCurveTo(x1, middle, lower.left, middle, lower.left, lower.top);
      c.stroke();
    }
    c.lineWidth = 2;
    for (const box of [own, ...state.links.map((link) => this.box(link))]) {
      if (box) c.strokeRect(box.left - 1, box.top - 1, box.right - box.left + 1, box.height + 2);
    }
    c.lineWidth = 1;
  }

  // The slice at a point of the canvas: exact, or the nearest within three pixels.
  at(px, py) {
    const lane = this.state.lanes.find((l) => py >= l.y && py < l.y + l.height);
    if (!lane) return null;
    const line = lane.track.lines[Math.floor((py - lane.y) / lane.row)];
    const time = this.state.from + px / this.scale;
    const near = firstAfter(lane.track, line, time - 3 / this.scale);
    let best = null;
    let distance = 3 / this.scale;
    for (let p = near; p < line.length && p < near + 50; p++) {
      const i = line[p];
      const away = Math.max(0, lane.track.start[i] - time, time - lane.track.end[i]);
      if (away < distance || (away === 0 && !best)) { best = { track: lane.track, i }; distance = away; }
      if (lane.track.start[i] > time + 3 / this.scale) break;
    }
    return best;
  }

  markAt(px, py) {
    if (py < RULER || py > RULER + MARKS) return null;
    return this.placed.find(({ x }) => Math.abs(x - px) <= 10)?.mark ?? null;
  }
}
