// The page around the timeline: theme, findings (filter, order, copy), navigation.

const say = (text) => { document.getElementById("said").textContent = text; };

const themeListeners = [];

function initTheme() {
  const button = document.getElementById("theme");
  const root = document.documentElement;
  const show = () => {
    const theme = root.dataset.theme || "auto";
    button.textContent = `Theme: ${theme}`;
    for (const listener of themeListeners) listener();
  };
  button.addEventListener("click", () => {
    const order = ["auto", "light", "dark"];
    const next = order[(order.indexOf(root.dataset.theme || "auto") + 1) % 3];
    if (next === "auto") delete root.dataset.theme; else root.dataset.theme = next;
    try { localStorage.setItem("traceql-theme", next); } catch { /* kept for this visit only */ }
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();
}

function initFindings() {
  const list = document.getElementById("cards");
  const filter = document.getElementById("filter");
  if (!list || !filter) return;
  const entries = [...list.children];
  const cards = [...list.querySelectorAll(".card")];
  const boxes = [...document.querySelectorAll(".severity-filter")];
  const none = document.getElementById("none-shown");
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const severities = new Set(boxes.filter((b) => b.checked).map((b) => b.value));
    let shown = 0;
    for (const card of cards) {
      const text = `${card.closest(".entry").querySelector(".card-head").textContent} ${card.textContent}`.toLowerCase();
      card.hidden = !severities.has(card.dataset.severity) || !words.every((w) => text.includes(w));
      shown += card.hidden ? 0 : 1;
    }
    for (const entry of entries) entry.hidden = !entry.querySelector(".card:not([hidden])");
    none.hidden = shown > 0;
    say(`${shown} of ${cards.length} findings shown`);
  };
  const orders = {
    rank: (a, b) => a.dataset.number - b.dataset.number,
    saving: (a, b) => b.dataset.saving - a.dataset.saving || a.dataset.number - b.dataset.number,
    code: (a, b) => a.dataset.code.localeCompare(b.dataset.code) || a.dataset.number - b.dataset.number,
    time: (a, b) => a.dataset.start - b.dataset.start || a.dataset.number - b.dataset.number,
  };
  // Findings of one rule stay together; their first stands for them.
  const reorder = (order) => {
    for (const entry of entries) {
      const members = [...entry.querySelectorAll(".card")].sort(order);
      members[0].parentElement.append(...members);
    }
    list.append(...[...entries].sort((a, b) => order(a.querySelector(".card"), b.querySelector(".card"))));
  };
  const sort = document.getElementById("sort");
  sort.addEventListener("change", () => reorder(orders[sort.value]));
  filter.addEventListener("input", apply);
  for (const box of boxes) box.addEventListener("change", apply);
}

// Say on a button what it did, for a moment.
function flash(button, text, aloud) {
  const before = button.dataset.label ?? button.textContent;
  button.dataset.label = before;
  button.textContent = text;
  say(aloud);
  setTimeout(() => { button.textContent = before; }, 1500);
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "visually-hidden";
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

function initCopy() {
  const texts = JSON.parse(document.getElementById("markdown").textContent);
  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      await copyText(texts[button.dataset.anchor]);
      flash(button, "Copied", "Finding copied as Markdown");
    });
  }
}

function initNavigation() {
  const openTarget = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.classList.contains("card")) {
      target.hidden = false;
      target.closest(".entry").hidden = false;
      const details = target.querySelector("details.evidence");
      if (details) details.open = true;
    }
  };
  addEventListener("hashchange", openTarget);
  openTarget();
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details:not(.reference)")) details.open = true;
  });
  const links = new Map([...document.querySelectorAll(".topbar nav a")].map((a) => [a.hash.slice(1), a]));
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      for (const [id, link] of links) {
        if (id === target.id) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
      }
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  for (const id of links.keys()) {
    const section = document.getElementById(id);
    if (section) seen.observe(section);
  }
}
