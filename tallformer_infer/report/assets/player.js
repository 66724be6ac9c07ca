// The video: where it comes from, and playing one action after another.
const player = $("video");
let stopAt = null;

function openVideo() {
  const video = state.video;
  player.pause();
  $("video-problem").hidden = true;
  $("watch").classList.remove("broken");
  showStream();
  if (video.embedded === null) {
    if (video.source) player.src = video.source; else showProblem("The video is not beside this page.");
    return;
  }
  const text = atob($("video-" + video.embedded).textContent);
  const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
  player.src = URL.createObjectURL(new Blob([bytes]));
}

function showStream() {
  const { stream, streams } = state.video;
  $("stream").hidden = streams < 2;
  $("stream").textContent = `Video stream ${stream} (of 0 to ${streams - 1}) was analysed; a browser shows ` +
    (stream ? "stream 0, so the picture here may be another one." : "the same one, usually.");
}

function seek(seconds) {
  player.currentTime = Math.max(0, seconds);
  movePlayhead(seconds);
}

function playAction(action) {
  select(action);
  stopAt = action.end;
  seek(action.start);
  player.play().catch(() => {}); // refused until the page was touched, or no such video: the problem is shown below it
}

function select(action) {
  state.current = action.number;
  showNow(action);
  showReview();
  for (const row of document.querySelectorAll("#rows tr[data-number]")) {
    const isCurrent = Number(row.dataset.number) === action.number;
    row.setAttribute("aria-current", isCurrent);
    if (isCurrent) showInList(row);
  }
  bringIntoView(action);
  showBorders();
}

function unselect() {
  state.current = -1;
  $("now").textContent = "";
  showReview();
  showBorders();
}

function showNow(action) {
  $("now").textContent = clock(action.start) + " – " + clock(action.end) + "  " + DATA.labels[action.label] +
    (action.score === null ? "" : "  " + action.score.toFixed(3));
}

// Video and timeline stick to the page's top, so that scrolling never takes them out of sight.
const showInList = (row) => row.scrollIntoView({ block: "nearest" });

// The next shown action in order of time, or the one before.
function step(direction) {
  const actions = shownActions();
  if (!actions.length) return;
  const place = actions.findIndex((action) => action.number === state.current);
  let next = place + direction;
  if (place < 0) {
    const time = player.currentTime;
    next = direction > 0 ? actions.findIndex((action) => action.start >= time)
      : actions.findLastIndex((action) => action.start < time);
    if (next < 0) next = direction > 0 ? actions.length - 1 : 0;
  }
  playAction(actions[Math.min(Math.max(next, 0), actions.length - 1)]);
}

player.addEventListener("timeupdate", () => {
  movePlayhead(player.currentTime);
  if (stopAt !== null && player.currentTime >= stopAt && !player.paused) {
    player.pause();
    stopAt = null;
  }
});
player.addEventListener("error", () => {
  if (!player.getAttribute("src")) return;
  showProblem("This browser cannot play " + state.video.name + " from here.");
});

function showProblem(what) {
  const problem = $("video-problem");
  problem.textContent = what + " Choose the file below; the times of the actions are right all the same.";
  problem.hidden = false;
  $("watch").classList.add("broken");
}

$("video-file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (!file) return;
  $("video-problem").hidden = true;
  player.src = URL.createObjectURL(file);
});
// Space plays and pauses after a button was clicked, too: a mouse leaves no focus behind.
document.addEventListener("click", (event) => {
  const button = event.detail && event.target.closest("button");
  if (button) button.blur();
});
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));

const SPEEDS = [0.25, 0.5, 1, 1.5, 2, 4];
function changeSpeed(direction) {
  const place = SPEEDS.indexOf(Number($("speed").value)) + direction;
  setSpeed(SPEEDS[Math.min(Math.max(place, 0), SPEEDS.length - 1)]);
}

// The default speed, too, which another video begins with.
function setSpeed(speed) {
  player.defaultPlaybackRate = player.playbackRate = speed;
  $("speed").value = speed;
}

$("speed").append(...SPEEDS.map((value) => element("option", { value, textContent: value + "×", selected: value === 1 })));
$("speed").addEventListener("change", () => {
  setSpeed(Number($("speed").value));
  $("speed").blur(); // so that the keys work
});
