"use strict";
const $ = (id) => document.getElementById(id);
const DATA = JSON.parse($("data").textContent);
const PAGE = 200;
const VIDEOS = DATA.rows.map(([name, status, duration, found, error, page, note], number) => ({
  name, status, duration, error, page, note, number,
  found: new Map(found.map(([label, count, seconds]) => [label, { count, seconds }])),
  actions: found.reduce((sum, [, count]) => sum + count, 0),
  text: [name, error, note, ...found.map(([label]) => DATA.labels[label])].join("\n").toLowerCase(),
}));
const state = { search: "", status: "", label: null, first: 0, sort: { videos: "", classes: "count" }, down: { videos: false, classes: true } };

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children); // text stays text, whatever is in it
  return made;
}

const hours = (seconds) => (seconds / 3600).toFixed(seconds < 36000 ? 2 : 1);
const number = (value) => element("td", { className: "number", textContent: value });

function clock(seconds) {
  if (seconds === null) return "";
  const whole = Math.round(seconds), minutes = Math.floor(whole / 60);
  const rest = String(whole % 60).padStart(2, "0");
  return minutes < 60 ? minutes + ":" + rest : Math.floor(minutes / 60) + ":" + String(minutes % 60).padStart(2, "0") + ":" + rest;
}

function chosen() {
  const words = state.search.toLowerCase();
  return VIDEOS.filter((video) => video.text.includes(words) && (!state.status || video.status === state.status) &&
    (state.label === null || video.found.has(state.label)));
}

function ordered(items, keys, kind) {
  const key = keys[state.sort[kind]];
  if (!key) return items;
  const sign = state.down[kind] ? -1 : 1;
  return [...items].sort((a, b) => sign * (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) || a.number - b.number);
}

function showTotals() {
  const failed = VIDEOS.filter((video) => video.error).length;
  const seconds = VIDEOS.reduce((sum, video) => sum + (video.duration || 0), 0);
  const actions = VIDEOS.reduce((sum, video) => sum + video.actions, 0);
  $("totals").textContent = VIDEOS.length + " videos, " + hours(seconds) + " hours, " + actions + " actions, " + failed + " failed";
}

function showClasses() {
  const sums = DATA.labels.map((label, place) => ({ label, number: place, count: 0, videos: 0, seconds: 0 }));
  for (const video of chosenWithoutLabel()) {
    for (const [label, { count, seconds }] of video.found) {
      sums[label].count += count;
      sums[label].videos += 1;
      sums[label].seconds += seconds;
    }
  }
  const most = Math.max(1, ...sums.map((sum) => sum.count));
  const keys = { label: (sum) => sum.label, count: (sum) => sum.count, videos: (sum) => sum.videos, seconds: (sum) => sum.seconds };
  $("classes-rows").replaceChildren(...ordered(sums, keys, "classes").map((sum) => {
    const name = element("button", { type: "button", textContent: sum.label });
    name.addEventListener("click", () => chooseLabel(state.label === sum.number ? null : sum.number));
    const bar = element("div", { className: "bar" });
    bar.style.width = (100 * sum.count) / most + "%";
    const row = element("tr", {}, element("td", {}, name, bar), number(sum.count), number(sum.videos), number(hours(sum.seconds)));
    row.setAttribute("aria-selected", state.label === sum.number);
    return row;
  }));
}

function chosenWithoutLabel() {
  const label = state.label;
  state.label = null;
  const found = chosen();
  state.label = label;
  return found;
}

function showVideos() {
  const keys = { name: (video) => video.name, status: (video) => video.status, duration: (video) => video.duration ?? -1,
    actions: (video) => (state.label === null ? video.actions : video.found.get(state.label).count) };
  const found = ordered(chosen(), keys, "videos");
  state.first = Math.min(state.first, Math.max(0, Math.floor((found.length - 1) / PAGE) * PAGE));
  $("videos-rows").replaceChildren(...found.slice(state.first, state.first + PAGE).map((video) => {
    const name = video.page === null ? video.name : element("a", { href: video.page, textContent: video.name });
    const cell = element("td", {}, name);
    if (video.error) cell.append(element("div", { className: "error", textContent: video.error }));
    if (video.note) cell.append(element("div", { className: "note", textContent: video.note }));
    return element("tr", {}, cell, element("td", { textContent: video.status }),
      element("td", { className: "number wide", textContent: clock(video.duration) }), number(keys.actions(video)));
  }));
  $("found").textContent = found.length + " of " + VIDEOS.length + " videos";
  $("paging").hidden = found.length <= PAGE;
  $("page-shown").textContent = state.first + 1 + " to " + Math.min(state.first + PAGE, found.length);
  $("page-before").disabled = state.first === 0;
  $("page-after").disabled = state.first + PAGE >= found.length;
}

function refresh() {
  showClasses();
  showVideos();
}

function chooseLabel(label) {
  state.label = label;
  state.first = 0;
  $("label").value = label === null ? "" : label;
  refresh();
}

function turn(pages) {
  state.first += pages * PAGE;
  showVideos();
}

for (const status of [...new Set(VIDEOS.map((video) => video.status))].sort()) {
  $("status").append(element("option", { value: status, textContent: status }));
}
DATA.labels.forEach((label, place) => $("label").append(element("option", { value: place, textContent: label })));
$("search").addEventListener("input", (event) => { state.search = event.target.value; state.first = 0; refresh(); });
$("status").addEventListener("change", (event) => { state.status = event.target.value; state.first = 0; refresh(); });
$("label").addEventListener("change", (event) => chooseLabel(event.target.value === "" ? null : Number(event.target.value)));
$("page-before").addEventListener("click", () => turn(-1));
$("page-after").addEventListener("click", () => turn(1));
for (const button of document.querySelectorAll("th button")) {
  const kind = button.closest("table").querySelector("#classes-rows") ? "classes" : "videos";
  button.addEventListener("click", () => {
    const same = state.sort[kind] === button.dataset.sort;
    state.down[kind] = same ? !state.down[kind] : !["label", "name", "status"].includes(button.dataset.sort);
    state.sort[kind] = button.dataset.sort;
    refresh();
  });
}
showTotals();
refresh();
