// Joins the parts of the page: views, steps, sliders, keys, and a look at the server every second.

import { getJSON } from "./api.js";
import { setUpExporting } from "./exporting.js";
import { setUpParticles } from "./particles.js";
import { answer, openReview, reviewRound, setUpReview, startReview } from "./review.js";
import {
  $, AXES, act, attempt, changed, clearReport, goTo, goToTomogram, listen, refresh, state, suitLook,
} from "./state.js";
import { setUpTraining } from "./training.js";
import { SliceView, addAt, deleteSelected } from "./view.js";

const OFTEN = 1000;
const SELDOM = 3000;
const TABS = ["particles", "training", "review", "exporting"];
const views = [...document.querySelectorAll(".view")].map((figure) => new SliceView(figure));
const large = () => views.find((view) => view.axis === state.large);

function makeLarge(axis) {
  state.large = axis;
  $("views").dataset.large = axis;
  for (const one of AXES) $(`large-${one}`).setAttribute("aria-pressed", String(one === axis));
  changed();
}

function openTab(name) {
  state.tab = name;
  for (const one of TABS) {
    const chosen = one === name;
    $(`tab-${one}`).setAttribute("aria-selected", String(chosen));
    $(`tab-${one}`).tabIndex = chosen ? 0 : -1;
    $(`panel-${one}`).hidden = !chosen;
  }
  if (name === "review" && state.tomogram && state.session.diameter) openReview();
}

async function undo(which) {
  const done = await act({ do: which });
  if (!done) return;
  state.selected = null;
  if (done.tomogram !== state.number) {
    $("tomogram").value = String(done.tomogram);
    await goToTomogram(done.tomogram);
  }
  if (done.did === "judge" && state.tab === "review") await openReview();
  else if (done.at) goTo(done.at);
}

function setUpSliders() {
  for (const name of ["thickness", "contrast", "brightness", "smoothing"]) {
    $(name).addEventListener("input", () => {
      state.look[name] = Number($(name).value);
      state.chosen = true;
      changed();
    });
  }
  $("slice").addEventListener("input", () => {
    const at = [...state.cursor];
    at[AXES.indexOf(state.large)] = Number($("slice").value);
    goTo(at);
  });
}

function showSliders() {
  if (!state.tomogram) return;
  const index = AXES.indexOf(state.large);
  const at = Math.round(state.cursor[index]);
  $("slice").max = state.tomogram.shape[index] - 1;
  $("slice").value = at;
  $("slice-value").textContent = `${state.large} = ${at} of ${state.tomogram.shape[index]}`;
  for (const name of ["thickness", "smoothing"]) $(name).value = state.look[name];
  $("thickness-value").textContent = String(state.look.thickness);
  $("contrast-value").textContent = `× ${(2 ** state.look.contrast).toFixed(2)}`;
  $("brightness-value").textContent = state.look.brightness.toFixed(2);
  $("smoothing-value").textContent = String(state.look.smoothing);
}

function showHeader() {
  const { session } = state;
  if (!session) return;
  const labels = session.tomograms.map((one) => one.particles ? `${one.name} (${one.particles})` : one.name);
  const select = $("tomogram");
  if (labels.join("\n") !== [...select.options].map((one) => one.text).join("\n")) {
    select.replaceChildren(...labels.map((text, number) => new Option(text, String(number))));
  }
  select.value = String(state.number);
  $("undo").disabled = !session.can_undo;
  $("redo").disabled = !session.can_redo;
  $("take-back").disabled = !session.can_undo;
}

function typing(target) {
  return target instanceof HTMLElement
    && (target.matches("input:not([type=range]), textarea, select") || target.closest("dialog"));
}

function step(index, by, event) {
  const at = [...state.cursor];
  at[index] = (event.altKey ? at[index] : Math.round(at[index])) + by;
  if (!event.altKey) return goTo(at);
  const particle = state.tomogram.particles.find((one) => state.selected?.number === one.number);
  if (!particle) return undefined;
  const moved = [...particle.at];
  moved[index] += by;
  if (moved[index] < 0 || moved[index] > state.tomogram.shape[index] - 1) return undefined;
  goTo(moved);
  return act({ do: "move", tomogram: state.tomogram.name, particle: particle.number, at: moved });
}

function pressed(event) {
  if (event.key === "Escape") clearReport();
  if (typing(event.target) || !state.tomogram) return;
  const view = large();
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
    event.preventDefault();
    undo(event.shiftKey ? "redo" : "undo");
    return;
  }
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "y") {
    event.preventDefault();
    undo("redo");
    return;
  }
  if (event.ctrlKey || event.metaKey) return;
  const focused = views.find((one) => one.canvas === document.activeElement);
  const arrows = { ArrowLeft: ["right", -1], ArrowRight: ["right", 1], ArrowUp: ["down", -1], ArrowDown: ["down", 1] };
  if (focused && arrows[event.key]) {
    const [way, by] = arrows[event.key];
    event.preventDefault();
    step(focused[way], by * (event.shiftKey ? 10 : 1), event);
    return;
  }
  if (focused && event.key === "Enter") {
    event.preventDefault();
    addAt([...state.cursor]);
    return;
  }
  const keys = {
    a: () => answer("accept"),
    r: () => answer("reject"),
    s: () => answer("skip"),
    Delete: deleteSelected,
    Backspace: deleteSelected,
    PageUp: () => (focused ?? view).scroll(event.shiftKey ? 10 : 1),
    PageDown: () => (focused ?? view).scroll(event.shiftKey ? -10 : -1),
    "+": () => (focused ?? view).zoom(1.25),
    "=": () => (focused ?? view).zoom(1.25),
    "-": () => (focused ?? view).zoom(0.8),
    0: () => views.forEach((one) => one.fit()),
    1: () => makeLarge("z"),
    2: () => makeLarge("y"),
    3: () => makeLarge("x"),
    u: () => undo(event.shiftKey ? "redo" : "undo"),
    h: () => { state.marks = !state.marks; changed(); },
    "?": () => $("help").showModal(),
    Escape: () => { state.selected = null; changed(); },
  };
  const work = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!work) return;
  event.preventDefault();
  work();
}

function setUp() {
  for (const axis of AXES) $(`large-${axis}`).addEventListener("click", () => makeLarge(axis));
  for (const [place, name] of TABS.entries()) {
    $(`tab-${name}`).addEventListener("click", () => openTab(name));
    $(`tab-${name}`).addEventListener("keydown", (event) => {
      const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!way) return;
      const other = TABS[(place + way + TABS.length) % TABS.length];
      openTab(other);
      $(`tab-${other}`).focus();
      event.preventDefault();
    });
  }
  $("tomogram").addEventListener("change", () => attempt(async () => {
    await goToTomogram(Number($("tomogram").value));
    clearReport();
    suitLook();
    views.forEach((view) => view.fit());
  }));
  $("undo").addEventListener("click", () => undo("undo"));
  $("redo").addEventListener("click", () => undo("redo"));
  $("take-back").addEventListener("click", () => undo("undo"));
  $("fit").addEventListener("click", () => views.forEach((view) => view.fit()));
  $("help-button").addEventListener("click", () => $("help").showModal());
  $("problem-close").addEventListener("click", clearReport);
  document.addEventListener("keydown", pressed);
  window.addEventListener("unhandledrejection", (event) => {
    $("problem-text").textContent = `The page has a fault: ${event.reason?.message ?? event.reason}`;
    $("problem").hidden = false;
  });
  setUpSliders();
  setUpParticles(startReview);
  setUpTraining();
  setUpReview(views);
  setUpExporting();
  listen(showHeader);
  listen(showSliders);
  listen(() => views.forEach((view) => view.update()));
}

// Looks for what has changed elsewhere: in the background, or in another window.
async function watch() {
  let lost = false;
  for (;;) {
    const busy = state.session?.job?.state === "running" || state.tomogram?.proposals.state === "busy";
    await new Promise((done) => { setTimeout(done, busy ? OFTEN : SELDOM); });
    try {
      const session = await getJSON("api/session");
      if (lost) clearReport();
      lost = false;
      const before = state.session ?? session;
      const news = session.revision !== before.revision
        || session.job?.state !== before.job?.state
        || JSON.stringify(session.rounds) !== JSON.stringify(before.rounds);
      state.session = session;
      if (session.job?.kind === "pick" && session.job.state === "done" && before.job?.state === "running") {
        // What was picked just now is what there is to review.
        reviewRound(session.job.round);
      }
      if (state.tomogram && (news || state.tomogram.proposals.state === "busy")) await refresh();
      changed();
    } catch (error) {
      lost = true;
      $("problem-text").textContent = error.message;
      $("problem").hidden = false;
    }
  }
}

setUp();
await attempt(async () => {
  state.session = await getJSON("api/session");
  await goToTomogram(0);
  suitLook();
  views.forEach((view) => view.fit());
  $("saved").textContent = "All saved";
  if (!state.session.diameter) $("diameter").focus();
});
watch();
