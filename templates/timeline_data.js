// Timeline data: unpacking, and the questions asked of it.

// Text that was gzipped and put in base64.
async function unzipped(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

const unpack = async (base64) => prepared(JSON.parse(await unzipped(base64)));

// Starts are stored as differences; rows of a track are split so that slices of one row never overlap.
function prepared(data) {
  for (const track of data.tracks) {
    const count = track.s.length;
    const start = new Float64Array(count);
    const end = new Float64Array(count);
    let at = 0;
    for (let i = 0; i < count; i++) {
      at += track.s[i];
      start[i] = at;
      end[i] = at + track.d[i];
    }
    const lines = Array.from({ length: track.rows }, () => []);
    for (let i = 0; i < count; i++) lines[track.y ? track.y[i] : 0].push(i);
    Object.assign(track, { start, end, lines: lines.map((line) => Int32Array.from(line)) });
    delete track.s;
    delete track.d;
  }
  data.lower = data.names.map((name) => name.toLowerCase());
  return data;
}

const shortName = (data, index) => data.short[index] ?? data.names[index];

// Position in `line` of the first slice that ends after `time`.
function firstAfter(track, line, time) {
  let low = 0;
  let high = line.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (track.end[line[middle]] > time) high = middle; else low = middle + 1;
  }
  return low;
}

// Every slice that the launch call `launch` or its GPU work is drawn as, in order of time.
function launched(data, launch) {
  const found = [];
  for (const track of data.tracks) {
    if (!track.l) continue;
    for (let i = 0; i < track.l.length; i++) if (track.l[i] === launch) found.push({ track, i });
  }
  return found;
}

// Names that hold every word of the query, as a set of name indexes; null for an empty query.
function matchingNames(data, query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return null;
  const found = new Set();
  data.lower.forEach((name, index) => { if (words.every((w) => name.includes(w))) found.add(index); });
  return found;
}

// Slices whose name is in `names`, on the lanes drawn, in order of time.
function matchingSlices(data, names, isShown) {
  const found = [];
  for (const track of data.tracks) {
    if (!isShown(track) || track.kind === "segment") continue;
    track.n.forEach((name, i) => { if (names.has(name)) found.push({ track, i }); });
  }
  return found.sort((a, b) => a.track.start[a.i] - b.track.start[b.i]);
}

const timeUnits = [["s", 1e9], ["ms", 1e6], ["µs", 1e3], ["ns", 1]];

// "33.4 ms": three significant digits, as everywhere in the report.
function duration(ns) {
  const [unit, size] = timeUnits.find(([, s]) => Math.abs(ns) >= s) || ["ns", 1];
  const value = ns / size;
  const digits = unit === "ns" ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value) || 1)));
  return `${value.toFixed(digits)} ${unit}`;
}

const exactNs = (ns) => `${Math.round(ns).toLocaleString("en-US")} ns`;
