// Two timelines on one scale: what one shows the other shows too, both counted from the start of their step.

class LinkedTimeline extends Timeline {
  get zero() { return this.data.steps[0].s; }

  show(from, to) {
    super.show(from, to);
    if (this.peer && !this.led) this.peer.follow(this.from - this.zero, this.to - this.zero);
  }

  follow(from, to) {
    this.led = true;
    this.from = from + this.zero;
    this.to = to + this.zero;
    this.invalidate();
    this.led = false;
  }

  // The longer of the two steps, with a little room.
  showStep(index) {
    if (!this.peer) { super.showStep(index); return; }
    this.step = index;
    this.show(this.zero - this.reach * 0.01, this.zero + this.reach * 1.01);
  }

  search(query) {
    super.search(query);
    if (!this.leads || !this.peer) return;
    this.peer.search(query);
    if (this.matched) {
      const [own, other] = [this, this.peer].map((each) => each.matches.length.toLocaleString("en-US"));
      this.root.querySelector(".matches").textContent = `${own} found in base, ${other} in head`;
    }
  }

  link(peer, leads) {
    this.peer = peer;
    this.leads = leads;
    this.reach = Math.max(this.last - this.zero, peer.last - peer.zero);
  }
}

const sides = new Map();
let opening = null;

function openSides() {
  opening ??= Promise.all([...document.querySelectorAll(".timeline")].map(async (root) => {
    const { index } = root.dataset;
    try {
      const data = await unpack(document.getElementById(`timeline-data-${index}`).textContent);
      sides.set(index, new LinkedTimeline(root, data));
    } catch (error) {
      root.querySelector(".detail").textContent = `The timeline could not be read: ${error.message}`;
    }
  })).then(() => {
    const [base, head] = [sides.get("0"), sides.get("1")];
    if (!base || !head) return;
    base.link(head, true);
    head.link(base, false);
    for (const each of [base, head]) each.last = each.zero + each.reach;
    base.showStep(0);
  });
  return opening;
}

function initSides() {
  const roots = [...document.querySelectorAll(".timeline")];
  if (!roots.length) return;
  const near = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    near.disconnect();
    openSides();
  }, { rootMargin: "600px" });
  for (const root of roots) near.observe(root);
  document.addEventListener("click", async (event) => {
    const place = event.target.closest("[data-start][data-trace]");
    if (!place || !document.getElementById(`timeline-data-${place.dataset.trace}`)) return;
    event.preventDefault();
    await openSides();
    const side = sides.get(place.dataset.trace);
    if (side) side.jump(Number(place.dataset.start), Number(place.dataset.end), null);
  });
}

initTheme();
initNavigation();
initSides();
