// Downloads of cuts. The page holds the events of all cuts of a trace as one document, a line an event; a cut leaves out
// the lines of other windows and adds the finding's own. The same lines and the same choice as `traceql open` makes.

const eventLines = new Map();

function linesOf(trace) {
  if (!eventLines.has(trace)) {
    eventLines.set(trace, unzipped(document.getElementById(`events-${trace}`).textContent).then((text) => text.split("\n")));
  }
  return eventLines.get(trace);
}

const SLICE = /^\{"ph":"X","ts":(-?\d+)\.(\d{3}),"dur":(-?\d+)\.(\d{3}),/;
const FLOW = /^\{"ph":"s","ts":(-?\d+)\.(\d{3}),.*?\},\{"ph":"f","ts":(-?\d+)\.(\d{3}),/;

// Whether a line belongs to the window, in exact ns: slices that touch it, flows with both ends inside, all names.
function inWindow(line, begin, end) {
  const slice = SLICE.exec(line);
  if (slice) {
    const start = BigInt(slice[1] + slice[2]);
    return start < end && start + BigInt(slice[3] + slice[4]) >= begin;
  }
  const flow = FLOW.exec(line);
  return !flow || (BigInt(flow[1] + flow[2]) >= begin && BigInt(flow[3] + flow[4]) < end);
}

async function cutOf({ trace, begin, end, line }) {
  const [from, to] = [BigInt(begin), BigInt(end)];
  const lines = await linesOf(trace);
  const kept = lines.slice(1, -1).filter((each) => inWindow(each, from, to));
  return [lines[0], ...kept, `${line},`, lines.at(-1)].join("\n");
}

async function download(cut) {
  const stream = new Blob([await cutOf(cut)]).stream().pipeThrough(new CompressionStream("gzip"));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await new Response(stream).blob());
  link.download = cut.file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function initHandoff() {
  for (const button of document.querySelectorAll("button.copy-command")) {
    button.addEventListener("click", async () => {
      await copyText(button.closest("p").querySelector("code").textContent);
      flash(button, "Copied", "Command copied");
    });
  }
  const held = document.getElementById("cuts");
  if (!held) return;
  const cuts = JSON.parse(held.textContent);
  for (const button of document.querySelectorAll("button.download")) {
    button.addEventListener("click", async () => {
      const cut = cuts[button.dataset.anchor];
      try {
        await download(cut);
        flash(button, "Downloaded", `${cut.file} downloaded`);
      } catch (error) {
        flash(button, `Not possible: ${error.message}`, "The download failed");
      }
    });
  }
}

initHandoff();
