// The list, the filters, and everything that follows from a change of either.
function refresh() {
  showCounts();
  showRows();
  showReview();
  draw();
}

function showCounts() {
  const shown = shownActions();
  const classes = new Set(shown.map((action) => action.label)).size;
  let text = shown.length + " of " + counted(state.video.actions.length, "action") + ", " +
    classes + (classes === 1 ? " class" : " classes");
  if (state.video.truth) {
    const right = shown.filter((action) => action.truth >= 0).length;
    text += " · " + right + " right, " + (shown.length - right) + " too many, " + missedTruth().length + " missed";
  }
  $("counts").textContent = text;
  $("score-shown").textContent = state.lowest.toFixed(2);
  const numbers = new Map();
  for (const action of state.video.actions) {
    if (action.score === null || action.score >= state.lowest - 1e-9) {
      numbers.set(action.label, (numbers.get(action.label) || 0) + 1);
    }
  }
  for (const number of document.querySelectorAll("#classes .number")) {
    number.textContent = numbers.get(Number(number.dataset.label)) || 0;
  }
}

function sorted(actions) {
  const keys = {
    start: (action) => action.start, length: (action) => action.end - action.start,
    score: (action) => action.score ?? 2, label: (action) => DATA.labels[action.label],
  };
  const key = keys[state.sort], sign = state.down ? -1 : 1;
  return [...actions].sort((a, b) => sign * (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : a.number - b.number));
}

function showRows() {
  const missed = missedTruth().map((known) => ({ ...known, score: null, isMissed: true }));
  const items = sorted([...shownActions(), ...missed]);
  const place = items.findIndex((item) => !item.isMissed && item.number === state.current);
  if (place >= state.limit) state.limit = place + 100; // the current action is in the list
  $("rows").replaceChildren(...items.slice(0, state.limit).map(rowOf));
  $("truth-heading").hidden = !state.video.truth;
  showEmpty(items.length);
  const more = $("more-rows");
  more.hidden = items.length <= state.limit;
  more.textContent = "show all " + items.length;
  for (const button of document.querySelectorAll("th button")) {
    const isKey = button.dataset.sort === state.sort;
    button.parentElement.setAttribute("aria-sort", !isKey ? "none" : state.down ? "descending" : "ascending");
  }
}

// What stands in place of a list without rows.
function showEmpty(rows) {
  $("empty").hidden = rows > 0;
  const isFiltered = state.video.actions.length > 0;
  $("empty-text").textContent = isFiltered
    ? "No action passes the filters: " + counted(state.video.actions.length, "action") + " hidden."
    : "No action was found in this video.";
  $("show-all").hidden = !isFiltered;
}

function rowOf(item) {
  const start = element("button", { type: "button", textContent: clock(item.start), title: "Play" });
  const cells = [
    element("td", {}, start),
    element("td", { className: "wide", textContent: clock(item.end) }),
    element("td", { className: "wide", textContent: (item.end - item.start).toFixed(2) + " s" }),
    element("td", { className: "label", textContent: DATA.labels[item.label] }),
    element("td", { textContent: item.isMissed ? "missed" : item.score === null ? "" : item.score.toFixed(3) }),
  ];
  if (state.video.truth) {
    const known = item.isMissed ? item : state.video.truth[item.truth];
    const times = element("span", { className: "wide", textContent: known ? clock(known.start) + " – " + clock(known.end) : "" });
    const verdict = item.isMissed ? "" : known ? " overlap " + item.tiou.toFixed(2) : "none";
    cells.push(element("td", {}, times, verdict));
  }
  const row = element("tr", { className: item.isMissed ? "missed" : item.verdict }, ...cells);
  row.addEventListener("click", () => {
    if (String(getSelection())) return; // text is being selected
    if (item.isMissed) seek(item.start); else playAction(item);
  });
  if (!item.isMissed) {
    row.dataset.number = item.number;
    row.setAttribute("aria-current", item.number === state.current);
  }
  return row;
}

function showClasses() {
  const video = state.video;
  const labels = new Set([...video.actions, ...(video.truth || [])].map((item) => item.label));
  lanes = [...labels].sort((a, b) => a - b);
  $("classes").closest("fieldset").hidden = lanes.length === 0;
  $("classes").replaceChildren(...lanes.map((label) => {
    const box = element("input", { type: "checkbox", checked: !state.hidden.has(label) });
    box.addEventListener("change", () => {
      if (box.checked) state.hidden.delete(label); else state.hidden.add(label);
      refresh();
    });
    const dot = element("span", { className: "dot" });
    dot.style.background = colourOf(label);
    const number = element("span", { className: "number" });
    number.dataset.label = label;
    const name = element("span", { className: "name", textContent: DATA.labels[label] });
    return element("li", {}, element("label", {}, box, dot, name, number));
  }));
}

function setAllClasses(isShownNow) {
  state.hidden = new Set(isShownNow ? [] : lanes);
  for (const box of document.querySelectorAll("#classes input")) box.checked = isShownNow;
  refresh();
}

function openNumber(number) {
  state.number = number;
  state.video = VIDEOS[number];
  unselect();
  showClasses();
  openVideo();
  refresh();
}

// The same guard against formulas as `tallformer detect --format csv` has, so that `tallformer convert` reads the list.
function cell(value) {
  if (typeof value === "number") return String(value);
  const text = value === null ? "" : value;
  const safe = /^'*(?:\s*[=+\-@＝＋－＠]|[\t\r\n])/.test(text) ? "'" + text : text;
  return '"' + safe.replaceAll('"', '""') + '"';
}

function exportedRows() {
  return shownActions().filter(({ verdict }) => verdict !== "rejected").map((action) => ({
    video: state.video.name, start_s: action.start, end_s: action.end, label: DATA.labels[action.label], score: action.score,
  }));
}

function save(text, kind, suffix) {
  const name = state.video.name.split(/[\\/]/).pop().replace(/\.[^.]*$/, "") || "actions";
  const link = element("a", { download: name + suffix, href: URL.createObjectURL(new Blob([text], { type: kind })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

$("export-csv").addEventListener("click", () => {
  const names = ["video", "start_s", "end_s", "label", "score"];
  const lines = [names, ...exportedRows().map((row) => names.map((name) => row[name]))];
  save(lines.map((line) => line.map(cell).join(",") + "\r\n").join(""), "text/csv", ".actions.csv");
});
$("export-json").addEventListener("click", () => {
  const actions = exportedRows().map(({ start_s, end_s, label, score }) => ({ segment: [start_s, end_s], label, score }));
  const document = { videos: [{ path: state.video.name, actions }] };
  save(JSON.stringify(document, null, 1), "application/json", ".actions.json");
});
$("score").addEventListener("input", (event) => {
  state.lowest = Number(event.target.value);
  refresh();
});
$("search").addEventListener("input", (event) => {
  state.search = event.target.value.toLowerCase();
  refresh();
});
$("search").addEventListener("keydown", (event) => {
  if (["Enter", "Escape"].includes(event.key)) $("search").blur();
});
$("only").addEventListener("change", () => {
  state.only = $("only").value;
  $("only").blur(); // so that the keys work
  refresh();
});
$("show-all").addEventListener("click", () => {
  state.lowest = 0;
  state.search = $("search").value = "";
  state.only = $("only").value = "all";
  $("score").value = 0;
  setAllClasses(true);
});
// Where the stage is above the list, the head of the table stops below it.
new ResizeObserver(() => {
  const isAbove = $("stage").offsetLeft === $("side").offsetLeft && getComputedStyle($("stage")).position === "sticky";
  document.documentElement.style.setProperty("--stage-px", isAbove ? $("stage").offsetHeight + "px" : "0px");
}).observe($("stage"));
$("all-classes").addEventListener("click", () => setAllClasses(true));
$("no-classes").addEventListener("click", () => setAllClasses(false));
$("more-rows").addEventListener("click", () => {
  state.limit = Infinity;
  showRows();
});
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    state.down = state.sort === button.dataset.sort ? !state.down : button.dataset.sort === "score";
    state.sort = button.dataset.sort;
    showRows();
  });
}
if ($("video-choice")) $("video-choice").addEventListener("change", (event) => openNumber(Number(event.target.value)));

async function start() {
  await restoreReview();
  const asked = Number(location.hash.slice(1));
  if ($("video-choice") && asked < DATA.videos.length) $("video-choice").value = asked;
  openNumber(DATA.videos[asked] ? asked : 0);
  loadPlotly().then(draw, () => {
    chart.textContent = "The timeline could not be drawn by this browser; the list below has the same actions.";
  });
}
start();
