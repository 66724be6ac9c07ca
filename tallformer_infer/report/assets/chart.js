// The timeline: a lane per class, with a row for each of its actions that overlap, and below them one for the truth.
const chart = $("chart");
const MOST_ROWS = 4, ROW_PX = 20, LANE_GAP = 0.5;
let isDrawn = false, wantsDrawing = false, lanes = [];
let laid = { rows: new Map(), tops: new Map(), units: 1 };

// What Plotly draws as text it reads as a kind of HTML, so that labels are escaped for it.
function escaped(text, most) {
  const line = text.replace(/\s+/g, " ");
  const short = line.length > most ? line.slice(0, most - 1) + "…" : line;
  return short.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;") || "·";
}

// Rows of the shown actions inside their lanes, and where each lane begins, in rows from the top.
function layLanes() {
  const rows = new Map(), counts = new Map(), ends = new Map();
  for (const action of shownActions().sort((a, b) => a.start - b.start || b.end - a.end)) {
    const taken = ends.get(action.label) || [];
    let row = taken.findIndex((end) => end <= action.start);
    if (row < 0) row = Math.min(taken.length, MOST_ROWS - 1);
    taken[row] = Math.max(taken[row] ?? -Infinity, action.end);
    ends.set(action.label, taken);
    rows.set(action.number, row);
    counts.set(action.label, taken.length);
  }
  const tops = new Map();
  let top = 0;
  for (const label of lanes) {
    tops.set(label, top);
    top += heightOf(counts, label) + LANE_GAP;
  }
  laid = { rows, tops, counts, units: Math.max(top, 1) };
}

const heightOf = (counts, label) => Math.max(1, counts.get(label) || 0) + (state.video.truth ? 1 : 0);
const middleOf = (label) => laid.tops.get(label) + heightOf(laid.counts, label) / 2;
const actionPlace = (action) => laid.tops.get(action.label) + laid.rows.get(action.number) + 0.5;
const truthPlace = (known) => laid.tops.get(known.label) + heightOf(laid.counts, known.label) - 0.5;

function bars(items, { place, width, isTruth }) {
  const text = (item) => escaped(DATA.labels[item.label], 80) + "<br>" + clock(item.start) + " – " + clock(item.end) +
    (isTruth ? "<br>truth" : item.score === null ? "" : "<br>score " + item.score.toFixed(3));
  const colour = (item) => isTruth ? "rgba(0,0,0,0)" : colourOf(item.label);
  return {
    type: "bar", orientation: "h", textposition: "none", hoverinfo: "text", name: isTruth ? "truth" : "actions",
    base: items.map((item) => item.start),
    x: items.map((item) => item.end - item.start),
    y: items.map(place),
    width: items.map(() => width),
    hovertext: items.map(text),
    customdata: items.map((item) => item.number),
    marker: {
      color: items.map(colour),
      opacity: items.map((item) => isTruth ? 1 : opacityOf(item)),
      line: { color: items.map((item) => colourOf(item.label)), width: isTruth ? 2 : 1 },
    },
  };
}

// As sure as the model, until somebody has decided.
const opacityOf = ({ verdict, score }) => ({ accepted: 1, rejected: 0.12 })[verdict] ?? (score === null ? 1 : 0.35 + 0.65 * score);

function traces() {
  const truth = state.video.truth && state.video.truth.filter(isWanted);
  const drawn = [bars(shownActions(), { place: actionPlace, width: 0.86, isTruth: false })];
  if (truth) drawn.push(bars(truth, { place: truthPlace, width: 0.6, isTruth: true }));
  return drawn;
}

const margins = () => ({ l: chart.clientWidth < 600 ? 84 : 150, r: 12, t: 22, b: 4 });

function layout() {
  const ink = getComputedStyle(document.body).color;
  const isNarrow = chart.clientWidth < 600;
  const isTouch = matchMedia("(pointer: coarse)").matches; // a finger on the chart scrolls the page
  const grid = "rgba(128,128,128,0.25)";
  return {
    width: chart.clientWidth,
    height: 26 + Math.round(laid.units * ROW_PX),
    margin: margins(),
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, size: 12 },
    showlegend: false, barmode: "overlay", dragmode: isTouch ? false : "pan", hovermode: "closest", bargap: 0,
    uirevision: state.number, // keeps the zoom while the filter changes
    xaxis: { range: [state.video.start_s, state.video.end_s], ...ticks(), side: "top", gridcolor: grid, zeroline: false },
    yaxis: {
      fixedrange: true, range: [laid.units, -LANE_GAP / 2], tickmode: "array", gridcolor: grid, zeroline: false,
      tickvals: lanes.map(middleOf),
      ticktext: lanes.map((label) => escaped(DATA.labels[label], isNarrow ? 11 : 20)),
    },
  };
}

// Ticks at times that people count in, for what is in view.
function ticks(range) {
  const [first, last] = range || [state.video.start_s, state.video.end_s];
  const wanted = (last - first) / Math.max(2, Math.floor(chart.clientWidth / 110));
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400];
  const every = steps.find((size) => size >= wanted) || 28800;
  const values = [];
  for (let place = Math.ceil(first / every); place * every <= last && values.length < 100; place++) values.push(place * every);
  const text = values.map((value) => every < 1 ? clock(value) : clock(value).slice(0, -3));
  return { tickmode: "array", tickvals: values, ticktext: text };
}

function draw() {
  if (wantsDrawing || !window.Plotly) return;
  wantsDrawing = true;
  requestAnimationFrame(async () => {
    wantsDrawing = false;
    const view = isDrawn && chart.layout.uirevision === state.number ? [...chart.layout.xaxis.range] : null;
    layLanes();
    const wanted = layout();
    if (view) wanted.xaxis = { ...wanted.xaxis, range: view, ...ticks(view) };
    await Plotly.react(chart, traces(), wanted, { displayModeBar: false, scrollZoom: true });
    if (isDrawn) return;
    isDrawn = true;
    chart.on("plotly_click", ({ points: [point] }) => {
      const item = point.curveNumber ? state.video.truth[point.customdata] : state.video.actions[point.customdata];
      if (point.curveNumber) seek(item.start); else playAction(item);
    });
    chart.on("plotly_relayout", (change) => {
      const isView = Object.keys(change).some((key) => key.startsWith("xaxis.range") || key === "xaxis.autorange");
      if (isView) Plotly.relayout(chart, prefixed(ticks(chart.layout.xaxis.range)));
    });
    chart.on("plotly_afterplot", showPlace); // after a change of size too
    new ResizeObserver(() => draw()).observe($("chart-box")); // a scroll bar of the page changes it, too
    chart.on("plotly_relayouting", showPlace);
    showPlace();
    openKeysIfTheyFit();
  });
}

const prefixed = (axis) => Object.fromEntries(Object.entries(axis).map(([key, value]) => ["xaxis." + key, value]));

// What lies over the chart: in it, all actions would be drawn again with every step of the video.
function showPlace() {
  movePlayhead(player.currentTime);
  showBorders();
}

function movePlayhead(seconds) {
  if (!isDrawn) return;
  const place = pixelOf(seconds), { l, r } = margins();
  $("playhead").hidden = place < l || place > chart.clientWidth - r;
  $("playhead").style.transform = `translateX(${place - 1}px)`;
}

function pixelOf(seconds) {
  const [first, last] = chart.layout.xaxis.range, { l, r } = margins();
  return l + ((seconds - first) / (last - first)) * (chart.clientWidth - l - r);
}

// The middle of the row of a shown action.
function rowPixel(action) {
  const unit = (laid.units * ROW_PX) / (laid.units + LANE_GAP / 2);
  return margins().t + (actionPlace(action) + LANE_GAP / 2) * unit;
}

function view(first, last) {
  if (isDrawn) Plotly.relayout(chart, { "xaxis.range": [first, last] });
}

// Zoom by a factor around the playhead where it is in view, else around the middle; 0 shows the whole video.
function zoom(factor) {
  if (!isDrawn) return;
  if (!factor) return view(state.video.start_s, state.video.end_s);
  const [first, last] = chart.layout.xaxis.range;
  const time = player.currentTime;
  const centre = time >= first && time <= last ? time : (first + last) / 2;
  view(centre - (centre - first) * factor, centre + (last - centre) * factor);
}

// Move what is in view by a part of its length.
function pan(part) {
  if (!isDrawn) return;
  const [first, last] = chart.layout.xaxis.range;
  view(first + (last - first) * part, last + (last - first) * part);
}

function bringIntoView(action) {
  if (!isDrawn) return;
  if (laid.rows.has(action.number)) {
    const box = $("chart-box"), y = rowPixel(action);
    if (y < box.scrollTop + 2 * ROW_PX || y > box.scrollTop + box.clientHeight - ROW_PX) box.scrollTop = y - box.clientHeight / 2;
  }
  const [first, last] = chart.layout.xaxis.range;
  if (action.start >= first && action.end <= last) return;
  const half = Math.max((last - first) / 2, (action.end - action.start) * 0.75);
  const centre = (action.start + action.end) / 2;
  view(centre - half, centre + half);
}

$("zoom-in").addEventListener("click", () => zoom(0.5));
$("zoom-out").addEventListener("click", () => zoom(2));
$("zoom-all").addEventListener("click", () => zoom(0));
$("earlier").addEventListener("click", () => pan(-0.5));
$("later").addEventListener("click", () => pan(0.5));

// The charting library comes packed, which makes the page a third as large.
async function loadPlotly() {
  const packed = Uint8Array.from(atob($("plotly").textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = element("script", { textContent: await new Response(stream).text() });
  document.head.append(script);
}
