// One timeline: what is in view, what is selected, and the controls around the canvas.

const LANES = [["ranges", "Ranges"], ["calls", "CUDA calls"], ["ops", "Operators"], ["python", "Python"], ["segment", "Graph segments"]];

class Timeline {
  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.canvas = root.querySelector("canvas");
    this.painter = new Painter(this.canvas, data);
    this.hidden = new Set();
    this.selected = null;
    this.links = [];
    this.matched = null;
    this.matches = [];
    this.match = -1;
    this.origin = null;
    this.first = data.windows[0][0];
    this.last = data.windows.at(-1)[1];
    this.controls();
    this.relayout();
    this.showStep(Number(root.querySelector(".steps").value));
    themeListeners.push(() => this.recolour());
    this.recolour();
    new ResizeObserver(() => this.relayout()).observe(root);
  }

  isShown(track) { return !this.hidden.has(track.kind); }

  recolour() {
    this.colours = readColours(this.root, this.data.classes);
    this.invalidate();
  }

  relayout() {
    const width = this.root.clientWidth - 2;
    if (width < 10) return;
    this.plan = layout(this.data, (track) => this.isShown(track));
    this.painter.resize(width, this.plan.total);
    this.invalidate();
  }

  invalidate() {
    if (this.pending || !this.plan) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      const started = performance.now();
      this.painter.draw({ ...this.plan, from: this.from, to: this.to, colours: this.colours, selected: this.selected, links: this.links, matched: this.matched });
      const drawnMs = (performance.now() - started).toFixed(1);
      Object.assign(this.canvas.dataset, { from: Math.round(this.from), to: Math.round(this.to), drawnMs });
    });
  }

  // --- what is in view -------------------------------------------------------------------------------------

  show(from, to) {
    const shortest = 200;
    const longest = (this.last - this.first) * 1.04;
    const width = Math.min(Math.max(to - from, shortest), longest);
    const middle = (from + to) / 2;
    const slack = width / 2;
    const centre = Math.min(Math.max(middle, this.first), this.last);
    this.from = centre - slack;
    this.to = centre + slack;
    this.invalidate();
  }

  zoom(factor, at = (this.from + this.to) / 2) {
    this.show(at - (at - this.from) * factor, at + (this.to - at) * factor);
  }

  pan(share) {
    const by = (this.to - this.from) * share;
    this.show(this.from + by, this.to + by);
  }

  showStep(index) {
    const step = this.data.steps[index];
    this.step = index;
    this.root.querySelector(".steps").value = String(index);
    const margin = (step.e - step.s) * 0.01;
    this.show(step.s - margin, step.e + margin);
  }

  // --- selection -------------------------------------------------------------------------------------------

  select(slice, { reveal = false } = {}) {
    this.selected = slice;
    this.links = [];
    const launch = slice && slice.track.l ? slice.track.l[slice.i] : -1;
    if (launch >= 0) {
      const others = launched(this.data, launch).filter((o) => !(o.track === slice.track && o.i === slice.i));
      const isCall = slice.track.kind === "calls";
      this.links = isCall ? others.filter((o) => o.track.kind !== "segment").slice(0, 1) : others.filter((o) => o.track.kind === "calls");
      this.launchedCount = others.filter((o) => o.track.kind === "stream").length;
    }
    if (slice && reveal) this.reveal(slice);
    this.describe();
    this.invalidate();
  }

  // Move the view just enough to have the slice in it, comfortably wide.
  reveal({ track, i }) {
    const start = track.start[i];
    const end = track.end[i];
    if (start < this.from || end > this.to) {
      const half = Math.max((this.to - this.from) / 2, (end - start) * 0.75);
      this.show((start + end) / 2 - half, (start + end) / 2 + half);
    }
  }

  zoomToSelection() {
    if (!this.selected) return;
    const { track, i } = this.selected;
    const start = track.start[i];
    const long = Math.max(track.end[i] - start, 100);
    this.show(start - long * 1.5, start + long * 2.5);
  }

  neighbour(by) {
    if (!this.selected) {
      const lane = this.plan.lanes.find((l) => l.track.kind === "idle") || this.plan.lanes[0];
      const line = lane.track.lines[0];
      this.select({ track: lane.track, i: line[Math.min(firstAfter(lane.track, line, this.from), line.length - 1)] }, { reveal: true });
      return;
    }
    const { track, i } = this.selected;
    const line = track.lines[track.y ? track.y[i] : 0];
    const next = line[firstAfter(track, line, (track.start[i] + track.end[i]) / 2) + by];
    if (next !== undefined) this.select({ track, i: next }, { reveal: true });
  }

  describe() {
    const panel = this.root.querySelector(".detail");
    if (!this.selected) {
      panel.replaceChildren(this.hint);
      return;
    }
    const { track, i } = this.selected;
    const name = document.createElement("p");
    name.className = "name";
    name.textContent = this.data.names[track.n[i]];
    const facts = document.createElement("dl");
    facts.className = "facts";
    const add = (term, text, exact) => {
      const entry = document.createElement("div");
      const dt = document.createElement("dt");
      const dd = document.createElement("dd");
      dt.textContent = term;
      dd.textContent = text;
      if (exact) dd.title = exact;
      entry.append(dt, dd);
      facts.append(entry);
    };
    const long = track.end[i] - track.start[i];
    const start = track.start[i] + this.data.base;
    add("duration", duration(long), exactNs(long));
    add("at", `${((start + this.data.offset) / 1e9).toFixed(6)} s`, `${exactNs(start)} from the trace's first event`);
    add("on", `${track.group}, ${track.label}`);
    const cause = track.kind === "idle" ? this.data.classes[track.c[i]] : "";
    if (cause && cause !== "opaque-replay") add("idle because of", cause.replace("-", " "));
    const actions = document.createElement("p");
    actions.className = "actions";
    const go = (text, run) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "link";
      button.textContent = text;
      button.addEventListener("click", run);
      actions.append(button);
    };
    if (this.links.length && track.kind === "calls") {
      const link = this.links[0];
      add("launched", this.launchedCount > 1 ? `${this.launchedCount} GPU operations` : shortName(this.data, link.track.n[link.i]));
      add("until it ran", duration(link.track.start[link.i] - track.end[i]));
      go("Go to the GPU work", () => this.select(link, { reveal: true }));
    } else if (this.links.length) {
      const link = this.links[0];
      add("launched by", shortName(this.data, link.track.n[link.i]));
      add("after the call", duration(track.start[i] - link.track.end[link.i]));
      go("Go to the launch call", () => this.select(link, { reveal: true }));
    }
    go("Zoom to it", () => this.zoomToSelection());
    panel.replaceChildren(name, facts, actions);
  }

  // --- from and to the findings ----------------------------------------------------------------------------

  jump(start, end, from) {
    const [s, e] = [start - this.data.base, end - this.data.base];
    const inside = this.data.windows.some(([a, b]) => s >= a && s < b);
    if (!inside) {
      say("That moment is in a step the timeline does not hold.");
      this.root.querySelector(".matches").textContent = "not in the steps held here";
      return false;
    }
    const step = this.data.steps.findIndex((each) => s >= each.s && s < each.e);
    if (step >= 0) { this.step = step; this.root.querySelector(".steps").value = String(step); }
    const margin = Math.max((e - s) * 1.5, 20000);
    this.show(s - margin, e + margin);
    this.select(this.at(s, Math.max(e, s + 1)));
    this.origin = from;
    const back = this.root.querySelector(".back");
    back.hidden = !from;
    if (from) back.textContent = `← Back to finding ${from.dataset.number}`;
    this.root.closest("section").scrollIntoView({ block: "start" });
    this.canvas.focus({ preventScroll: true });
    return true;
  }

  // The slice that a finding's instance is: the one that shares most of its stretch, and has least beside it.
  at(start, end) {
    let best = null;
    let most = 0;
    for (const track of this.data.tracks) {
      if (!this.isShown(track)) continue;
      for (const line of track.lines) {
        for (let p = firstAfter(track, line, start); p < line.length && track.start[line[p]] < end; p++) {
          const [s, e] = [track.start[line[p]], track.end[line[p]]];
          const alike = (Math.min(e, end) - Math.max(s, start)) / (Math.max(e, end) - Math.min(s, start));
          if (alike > most * 1.001) { best = { track, i: line[p] }; most = alike; }
        }
      }
    }
    return best;
  }

  back() {
    if (!this.origin) return;
    this.origin.hidden = false;
    this.origin.closest(".entry").hidden = false;
    this.origin.scrollIntoView({ block: "center" });
    const title = this.origin.querySelector("h3, h4");
    title.tabIndex = -1;
    title.focus({ preventScroll: true });
    this.root.querySelector(".back").hidden = true;
  }

  // --- search ----------------------------------------------------------------------------------------------

  search(query) {
    this.matched = matchingNames(this.data, query);
    this.matches = this.matched ? matchingSlices(this.data, this.matched, (track) => this.isShown(track)) : [];
    this.match = -1;
    const count = this.matches.length.toLocaleString("en-US");
    this.root.querySelector(".matches").textContent = this.matched ? `${count} found` : "";
    this.invalidate();
  }

  nextMatch(by) {
    if (!this.matches.length) return;
    const count = this.matches.length;
    if (this.match < 0) {
      const inView = this.matches.findIndex(({ track, i }) => track.start[i] >= this.from);
      this.match = inView < 0 ? 0 : inView;
    } else {
      this.match = (this.match + by + count) % count;
    }
    this.root.querySelector(".matches").textContent = `${(this.match + 1).toLocaleString("en-US")} of ${count.toLocaleString("en-US")}`;
    this.select(this.matches[this.match], { reveal: true });
  }
}
