// What a bar, column or dot of a chart is, beside the pointer at once. Without scripts the browser shows the same titles.

function initTips() {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");
  document.body.append(tip);
  const texts = new Map();
  for (const title of document.querySelectorAll("svg title")) {
    texts.set(title.parentElement, title.textContent);
    title.remove();
  }
  const textAt = (target) => {
    for (let mark = target; mark instanceof SVGElement; mark = mark.parentElement) {
      if (texts.has(mark)) return texts.get(mark);
    }
    return null;
  };
  document.addEventListener("pointermove", (event) => {
    const text = textAt(event.target);
    tip.hidden = text === null;
    if (text === null) return;
    tip.textContent = text;
    const { width, height } = tip.getBoundingClientRect();
    const right = document.documentElement.clientWidth - width - 8;
    tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, right))}px`;
    tip.style.top = `${event.clientY - height - 14 > 0 ? event.clientY - height - 14 : event.clientY + 20}px`;
  });
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
}

initTips();
