// Timeline input: buttons, search box, wheel, pointer and keys.

Timeline.prototype.controls = function controls() {
  const { root, canvas } = this;
  const on = (selector, event, run) => root.querySelector(selector).addEventListener(event, run);
  this.hint = root.querySelector(".hint");
  on(".steps", "change", (event) => this.showStep(Number(event.target.value)));
  on(".zoom-in", "click", () => this.zoom(0.5));
  on(".zoom-out", "click", () => this.zoom(2));
  on(".fit", "click", () => this.showStep(this.step));
  on(".back", "click", () => this.back());
  on(".search", "input", (event) => this.search(event.target.value));
  on(".search", "keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); this.nextMatch(event.shiftKey ? -1 : 1); }
    if (event.key === "Escape") { event.target.value = ""; this.search(""); }
  });
  this.laneBoxes();
  this.pointer();
  canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  canvas.addEventListener("keydown", (event) => this.key(event));
};

Timeline.prototype.laneBoxes = function laneBoxes() {
  const host = this.root.querySelector(".lanes");
  for (const [kind, name] of LANES) {
    if (!this.data.tracks.some((track) => track.kind === kind)) continue;
    const label = document.createElement("label");
    label.className = "check";
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.addEventListener("change", () => {
      if (box.checked) this.hidden.delete(kind); else this.hidden.add(kind);
      this.relayout();
      if (this.matched) this.search(this.root.querySelector(".search").value);
    });
    label.append(box, name);
    host.append(label);
  }
};

// The wheel zooms once the chart has focus (or with Ctrl); before that it scrolls the page, as a reader expects.
Timeline.prototype.wheel = function wheel(event) {
  const zooming = document.activeElement === this.canvas || event.ctrlKey || event.metaKey;
  if (!zooming) return;
  event.preventDefault();
  const step = event.deltaMode === 1 ? 30 : 1;
  if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
    this.pan(((event.deltaX || event.deltaY) * step) / this.painter.width);
  } else {
    const at = this.from + (event.offsetX / this.painter.width) * (this.to - this.from);
    this.zoom(Math.exp(Math.max(-120, Math.min(120, event.deltaY * step)) * 0.004), at);
  }
};

Timeline.prototype.pointer = function pointer() {
  const { canvas, painter } = this;
  let press = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    press = { x: event.clientX, from: this.from, to: this.to, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!press) { this.hover(event.offsetX, event.offsetY); return; }
    const dx = event.clientX - press.x;
    if (Math.abs(dx) > 3) press.moved = true;
    if (!press.moved) return;
    canvas.classList.add("panning");
    const by = (-dx / painter.width) * (press.to - press.from);
    this.show(press.from + by, press.to + by);
  });
  const release = (event) => {
    if (press && !press.moved && event.type === "pointerup") this.click(event.offsetX, event.offsetY);
    press = null;
    canvas.classList.remove("panning");
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("dblclick", () => this.zoomToSelection());
};

Timeline.prototype.hover = function hover(x, y) {
  const slice = this.painter.state && this.painter.at(x, y);
  const mark = this.painter.state && this.painter.markAt(x, y);
  this.canvas.style.cursor = slice || mark ? "pointer" : "default";
  const { data } = this;
  if (mark) this.canvas.title = `finding ${mark.n}`;
  else if (slice) this.canvas.title = `${shortName(data, slice.track.n[slice.i])}\n${duration(slice.track.end[slice.i] - slice.track.start[slice.i])}`;
  else this.canvas.removeAttribute("title");
};

Timeline.prototype.click = function click(x, y) {
  const mark = this.painter.markAt(x, y);
  if (mark) { location.hash = mark.a; return; }
  this.canvas.focus({ preventScroll: true });
  this.select(this.painter.at(x, y));
};

Timeline.prototype.key = function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = {
    w: () => this.zoom(0.7), "+": () => this.zoom(0.7), "=": () => this.zoom(0.7), ArrowUp: () => this.zoom(0.7),
    s: () => this.zoom(1 / 0.7), "-": () => this.zoom(1 / 0.7), ArrowDown: () => this.zoom(1 / 0.7),
    a: () => this.pan(-0.15), ArrowLeft: () => this.pan(-0.15),
    d: () => this.pan(0.15), ArrowRight: () => this.pan(0.15),
    f: () => this.showStep(this.step), 0: () => this.showStep(this.step),
    ",": () => this.neighbour(-1), ".": () => this.neighbour(1),
    Enter: () => this.zoomToSelection(), Escape: () => this.select(null),
  };
  const run = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!run) return;
  event.preventDefault();
  run();
};
