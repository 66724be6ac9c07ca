// The borders of the current action on the timeline, which can be dragged.
const span = $("span");
let dragged = null; // times of the action whose border is held

function showBorders() {
  const action = dragged || current();
  span.hidden = !isDrawn || !action || !laid.rows.has(action.number);
  if (span.hidden) return;
  const left = pixelOf(action.start), right = pixelOf(action.end);
  const { l, r } = margins(), width = chart.clientWidth - r;
  const shownLeft = Math.max(l, left), shownRight = Math.min(width, right);
  span.hidden = shownLeft > width || shownRight < l;
  span.style.left = shownLeft + "px";
  span.style.width = Math.max(shownRight - shownLeft, 1) + "px";
  span.style.top = rowPixel(action) - ROW_PX / 2 + "px";
  $("border-start").hidden = left < l;
  $("border-end").hidden = right > width;
}

// The time under a pointer, at a whole frame.
function timeAt(x) {
  const [first, last] = chart.layout.xaxis.range, { l, r } = margins();
  const box = chart.getBoundingClientRect();
  const seconds = first + ((x - box.left - l) / (chart.clientWidth - l - r)) * (last - first);
  const zero = state.video.start_s, frame = frameLength();
  return zero + Math.round((seconds - zero) / frame) * frame;
}

for (const border of ["start", "end"]) {
  const handle = $("border-" + border);
  handle.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    handle.setPointerCapture(event.pointerId);
    stopAt = null;
    player.pause();
    dragged = { ...current() };
  });
  handle.addEventListener("pointermove", (event) => {
    if (!dragged) return;
    dragged[border] = limited(current(), border, timeAt(event.clientX));
    seek(dragged[border]);
    showNow(dragged);
    showBorders();
  });
  const end = (isKept) => {
    if (!dragged) return;
    const time = dragged[border];
    dragged = null;
    if (isKept) moveBorder(border, time);
    showBorders();
  };
  handle.addEventListener("pointerup", () => end(true));
  handle.addEventListener("pointercancel", () => end(false));
}
