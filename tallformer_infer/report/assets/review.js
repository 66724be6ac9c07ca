// The review: actions are accepted, rejected, corrected and added, and what was decided makes a file of truth.
const current = () => state.video.actions[state.current];
const frameLength = () => 1 / (state.video.fps || 25);
const rounded = (seconds) => Math.round(seconds * 1e6) / 1e6;

function decide(verdict) {
  const action = current();
  if (!action) return step(1); // the first key of a review selects an action
  const next = shownActions().find((other) => inTimeOrder(other, action) > 0);
  change(action, { verdict });
  if (next) playAction(next);
}

// Whoever corrects an action says that it is there.
function correct(action, fields) {
  change(action, { ...fields, verdict: "accepted" });
}

function change(action, fields) {
  const before = Object.fromEntries(Object.keys(fields).map((key) => [key, action[key]]));
  state.video.changes.push({ action, before });
  Object.assign(action, fields);
  changed(action);
}

function undo() {
  const last = state.video.changes.pop();
  if (!last) return;
  const { action, before } = last;
  if (before) Object.assign(action, before);
  else state.video.actions.pop(); // it was added, and everything since is undone
  changed(before ? action : null);
}

function changed(action) {
  keepReview();
  showClasses();
  refresh();
  if (action) select(action); else unselect();
}

function asFound() {
  const action = current();
  if (action) change(action, action.found ? { ...action.found, verdict: "" } : { verdict: "rejected" });
}

// Move a border of the current action, by frames or to a time, and show the picture there.
function moveBorder(border, seconds) {
  const action = current();
  if (!action) return;
  const time = limited(action, border, seconds);
  stopAt = null;
  player.pause();
  seek(time);
  if (time !== action[border]) correct(action, { [border]: time });
}

const nudge = (border, frames) => current() && moveBorder(border, current()[border] + frames * frameLength());

// An action is a frame long at least, and within the video.
function limited(action, border, seconds) {
  const { start_s: first, end_s: last } = state.video, frame = frameLength();
  const [least, most] = border === "start" ? [first, action.end - frame] : [action.start + frame, last];
  return rounded(Math.max(least, Math.min(seconds, most)));
}

function add() {
  const { start_s: first, end_s: last, actions } = state.video;
  const start = rounded(Math.max(first, Math.min(player.currentTime, last - frameLength())));
  const label = current()?.label ?? lanes[0] ?? labelNumber("action");
  const action = { start, end: rounded(Math.min(start + 1, last)), label, score: null, truth: -1, tiou: 0,
    number: actions.length, verdict: "accepted", found: null };
  actions.push(action);
  state.video.changes.push({ action, before: null });
  changed(action);
  editLabel();
}

function editLabel() {
  if (!current()) return;
  $("label").focus();
  $("label").select();
}

function relabel(text) {
  const action = current(), name = text.trim();
  if (action && name && name !== DATA.labels[action.label]) correct(action, { label: labelNumber(name) });
  $("label").blur();
}

function showReview() {
  const action = current(), counts = { accepted: 0, rejected: 0, "": 0 };
  for (const { verdict } of state.video.actions) counts[verdict] += 1;
  $("review-counts").textContent =
    counts.accepted + " accepted, " + counts.rejected + " rejected, " + counts[""] + " to review";
  $("edit").disabled = !action;
  $("label").value = action ? DATA.labels[action.label] : "";
  $("start-shown").textContent = action ? clock(action.start) : "";
  $("end-shown").textContent = action ? clock(action.end) : "";
  for (const name of ["accept", "reject", "as-found"]) $(name).disabled = !action;
  $("undo").disabled = !state.video.changes.length;
  const labels = $("labels");
  labels.append(...DATA.labels.slice(labels.children.length).map((value) => element("option", { value })));
}

// The ActivityNet form, as `eval`, `calibrate` and `train` read it, of every video about which something was decided.
function truthDocument() {
  const videos = VIDEOS.length === 1 ? VIDEOS : VIDEOS.filter(({ actions }) => actions.some(({ verdict }) => verdict));
  const database = new Map();
  for (const video of videos) {
    if (database.has(video.id)) throw new Error(`Two videos would both be ${video.id}: export them from pages of their own.`);
    const accepted = video.actions.filter(({ verdict }) => verdict === "accepted").sort(inTimeOrder);
    const annotations = accepted.map(({ start, end, label }) => ({ segment: [start, end], label: DATA.labels[label] }));
    const duration = video.duration_s === null ? {} : { duration: video.duration_s };
    database.set(video.id, { ...duration, ...(video.fps && { fps: video.fps }), annotations });
  }
  return { version: "tallformer", taxonomy: [], database: Object.fromEntries(database) };
}

function exportTruth() {
  try {
    const truth = truthDocument();
    const count = Object.values(truth.database).reduce((sum, { annotations }) => sum + annotations.length, 0);
    const left = VIDEOS.flatMap(({ actions }) => actions).filter(({ verdict }) => !verdict).length;
    save(JSON.stringify(truth, null, 1), "application/json", ".truth.json");
    sayReview(counted(count, "action") + " exported" + (left ? `; ${left} not reviewed are left out.` : "."));
  } catch (error) {
    sayReview(error.message);
  }
}

const sayReview = (text) => { $("kept").textContent = text; };

// What was decided, without what was not touched.
function reviewDocument() {
  return {
    version: 1, result: DATA.key,
    videos: VIDEOS.map(({ id, actions }) => ({
      name: id,
      actions: actions.filter(({ verdict }) => verdict).map(({ start, end, label, score, verdict, found, number }) => (
        { found: found && number, segment: [start, end], label: DATA.labels[label], score, verdict })),
    })),
  };
}

function restore(review) {
  review.videos.forEach(({ actions }, place) => {
    for (const { found, segment: [start, end], label, score, verdict } of actions) {
      const known = VIDEOS[place].actions, fields = { start, end, label: labelNumber(label), verdict };
      if (found === null) known.push({ ...fields, score, truth: -1, tiou: 0, number: known.length, found });
      else Object.assign(known[found], fields);
    }
  });
}

$("accept").addEventListener("click", () => decide("accepted"));
$("reject").addEventListener("click", () => decide("rejected"));
$("undo").addEventListener("click", undo);
$("add").addEventListener("click", add);
$("as-found").addEventListener("click", asFound);
$("export-truth").addEventListener("click", exportTruth);
for (const button of document.querySelectorAll("#edit button[data-border]")) {
  const { border, frames } = button.dataset;
  button.addEventListener("click", () => frames ? nudge(border, Number(frames)) : moveBorder(border, player.currentTime));
}
$("label").addEventListener("change", () => relabel($("label").value));
$("label").addEventListener("keydown", (event) => {
  if (event.key === "Enter") relabel($("label").value);
  if (event.key !== "Escape") return;
  showReview();
  $("label").blur();
});
// Where the result does not say how long the video is, the player does.
player.addEventListener("loadedmetadata", () => {
  const { video } = state;
  if (video.duration_s !== null || !Number.isFinite(player.duration)) return;
  video.duration_s = rounded(player.duration);
  video.end_s = Math.max(video.end_s, video.duration_s);
  draw();
});
