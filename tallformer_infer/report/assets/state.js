"use strict";
// What is on the page: the videos, which one is shown, and which of its actions.
const $ = (id) => document.getElementById(id);
const DATA = JSON.parse($("data").textContent);
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#a6761d", "#8e6bbf", "#7f8c2d", "#c23b5a"];
const state = { video: null, number: 0, lowest: 0, hidden: new Set(), search: "", only: "all", sort: "start", down: false,
  current: -1, limit: 300 };
const VIDEOS = DATA.videos.map(unpack);

// The first ten are told apart by most colour-blind people too; behind them, hues a golden angle apart.
const colourOf = (label) => COLOURS[label] || `hsl(${Math.round(label * 137.508) % 360}, 60%, ${label % 2 ? 42 : 58}%)`;

// Of a class that is chosen, with the text that is searched for in its name.
function isWanted(item) {
  return !state.hidden.has(item.label) && DATA.labels[item.label].toLowerCase().includes(state.search);
}

// An action is shown if it is wanted, sure enough, and not filtered out by its verdict; one without a score is sure.
function isShown(action) {
  return isWanted(action) && (action.score === null || action.score >= state.lowest - 1e-9) &&
    (state.only === "all" || state.only === action.verdict);
}

function shownActions() {
  return state.video.actions.filter(isShown).sort(inTimeOrder);
}

const inTimeOrder = (a, b) => a.start - b.start || a.end - b.end || a.number - b.number;

// True segments that are wanted and that no shown action matches.
function missedTruth() {
  const found = new Set(shownActions().map((action) => action.truth));
  return (state.video.truth || []).filter((known) => isWanted(known) && !found.has(known.number));
}

function clock(seconds) {
  const ticks = Math.round(Math.abs(seconds) * 100);
  const minutes = Math.floor(ticks / 6000), hours = Math.floor(minutes / 60);
  const rest = ((ticks % 6000) / 100).toFixed(2).padStart(5, "0");
  const sign = seconds < 0 && ticks ? "-" : "";
  return sign + (hours ? hours + ":" + String(minutes % 60).padStart(2, "0") : minutes) + ":" + rest;
}

function counted(number, noun) {
  return number + " " + noun + (number === 1 ? "" : "s");
}

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children); // text stays text, whatever is in it
  return made;
}

// A verdict is `accepted`, `rejected`, or empty; `found` is what the result says, null of an action that was added.
function unpack(video) {
  const actions = video.actions.map(([start, end, label, score, truth, tiou], number) =>
    ({ start, end, label, score, truth, tiou, number, verdict: "", found: { start, end, label } }));
  const truth = video.truth && video.truth.map(([start, end, label], number) => ({ start, end, label, number }));
  return { ...video, actions, truth, changes: [] };
}

// The number of a label, which may be a new one.
function labelNumber(text) {
  const number = DATA.labels.indexOf(text);
  return number < 0 ? DATA.labels.push(text) - 1 : number;
}
