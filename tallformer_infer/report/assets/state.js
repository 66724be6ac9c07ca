"use strict";
// What is on the page: the videos, which one is shown, and which of its actions.
const $ = (id) => document.getElementById(id);
const DATA = JSON.parse($("data").textContent);
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#a6761d", "#8e6bbf", "#7f8c2d", "#c23b5a"];
const state = { video: null, number: 0, lowest: 0, hidden: new Set(), sort: "start", down: false, current: -1, limit: 300 };

// The first ten are told apart by most colour-blind people too; behind them, hues a golden angle apart.
const colourOf = (label) => COLOURS[label] || `hsl(${Math.round(label * 137.508) % 360}, 60%, ${label % 2 ? 42 : 58}%)`;

// An action is shown if it is sure enough and of a class that is chosen; one without a score always is sure.
function isShown(action) {
  return (action.score === null || action.score >= state.lowest - 1e-9) && !state.hidden.has(action.label);
}

function shownActions() {
  return state.video.actions.filter(isShown);
}

// True segments of chosen classes that no shown action matches.
function missedTruth() {
  const found = new Set(shownActions().map((action) => action.truth));
  return (state.video.truth || []).filter((known) => !state.hidden.has(known.label) && !found.has(known.number));
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

function unpack(video) {
  const actions = video.actions.map(([start, end, label, score, truth, tiou], number) =>
    ({ start, end, label, score, truth, tiou, number }));
  const truth = video.truth && video.truth.map(([start, end, label], number) => ({ start, end, label, number }));
  return { ...video, actions, truth };
}
