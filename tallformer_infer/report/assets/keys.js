// The keys: one table, from which their list on the page is drawn, too.
const many = (event) => event.shiftKey ? 10 : 1;
const KEYS = [
  ["space", [" "], "play, pause", () => { stopAt = null; if (player.paused) player.play().catch(() => {}); else player.pause(); }],
  ["← →", ["arrowleft", "arrowright"], "one second", (event) => move(event.key === "ArrowLeft" ? -1 : 1)],
  [", .", [",", "."], "one frame", (event) => { player.pause(); move((event.key === "," ? -1 : 1) * frameLength()); }],
  ["< >", ["<", ">"], "slower, faster", (event) => changeSpeed(event.key === "<" ? -1 : 1)],
  ["J K", ["j", "k"], "next, previous", (event) => step(event.key.toLowerCase() === "j" ? 1 : -1)],
  ["A", ["a"], "accept, next", () => decide("accepted")],
  ["X", ["x"], "reject, next", () => decide("rejected")],
  ["Q W", ["q", "w"], "start ∓1 frame", (event) => nudge("start", (event.key.toLowerCase() === "q" ? -1 : 1) * many(event))],
  ["E R", ["e", "r"], "end ∓1 frame", (event) => nudge("end", (event.key.toLowerCase() === "e" ? -1 : 1) * many(event))],
  ["I O", ["i", "o"], "start, end here", (event) => moveBorder(event.key.toLowerCase() === "i" ? "start" : "end", player.currentTime)],
  ["L", ["l"], "change label", editLabel],
  ["N", ["n"], "new action here", add],
  ["B", ["b"], "back to as found", asFound],
  ["U", ["u"], "undo (Ctrl+Z)", undo],
  ["/", ["/"], "search", () => $("search").focus()],
  ["?", ["?"], "this list", () => { $("keys").open = !$("keys").open; }],
  ["+ - 0", ["+", "=", "-", "0"], "zoom", ({ key }) => zoom({ "-": 2, 0: 0 }[key] ?? 0.5)],
];

function move(seconds) {
  stopAt = null;
  seek(player.currentTime + seconds);
}

$("key-list").replaceChildren(...KEYS.map(([shown, , text]) =>
  element("li", {}, ...shown.split(" ").map((key) => element("kbd", { textContent: key })), " " + text)));

// The whole list, where it does not push the timeline out of sight.
function openKeysIfTheyFit() {
  const keys = $("keys"), stage = $("stage");
  keys.open = true;
  keys.open = stage.scrollHeight <= stage.clientHeight;
}
player.addEventListener("loadedmetadata", openKeysIfTheyFit); // the picture has its height

document.addEventListener("keydown", (event) => {
  const target = event.target, key = event.key.toLowerCase(), isUndo = (event.ctrlKey || event.metaKey) && key === "z";
  const hasOwnKeys = target.closest("input[type=range], input[type=checkbox]") && !/^[a-z]$/.test(key);
  const isTyping = target.closest("input:not([type=range], [type=checkbox]), select, textarea") || hasOwnKeys;
  if (isTyping || target === player || event.altKey || ((event.ctrlKey || event.metaKey) && !isUndo)) return;
  const onButton = target.closest("button, a, label, summary") && !target.closest("#rows");
  const found = KEYS.find(([, keys]) => keys.includes(isUndo ? "u" : key));
  if (!found || (onButton && key === " ")) return;
  event.preventDefault();
  found[3](event);
});
