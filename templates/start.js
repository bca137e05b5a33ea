// Start the page; timelines are unpacked when they come near the view, or when something jumps to them.

const timelines = new Map();

function openTimeline(index) {
  if (!timelines.has(index)) {
    const root = document.querySelector(`.timeline[data-index="${index}"]`);
    const opening = unpack(document.getElementById(`timeline-data-${index}`).textContent)
      .then((data) => new Timeline(root, data))
      .catch((error) => { root.querySelector(".detail").textContent = `The timeline could not be read: ${error.message}`; });
    timelines.set(index, opening);
  }
  return timelines.get(index);
}

function initTimelines() {
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      openTimeline(target.dataset.index);
    }
  }, { rootMargin: "600px" });
  for (const root of document.querySelectorAll(".timeline")) near.observe(root);
  document.addEventListener("click", async (event) => {
    const place = event.target.closest("[data-start][data-trace]");
    if (!place || !document.getElementById(`timeline-data-${place.dataset.trace}`)) return;
    event.preventDefault();
    const timeline = await openTimeline(place.dataset.trace);
    if (timeline) timeline.jump(Number(place.dataset.start), Number(place.dataset.end), place.closest(".card"));
  });
}

initTheme();
initFindings();
initCopy();
initNavigation();
initTimelines();
