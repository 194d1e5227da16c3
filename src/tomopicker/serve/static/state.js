// What the page knows, in one place; whoever shows it listens.

import { Refused, getJSON, postJSON } from "./api.js";

export const AXES = ["z", "y", "x"];

export const state = {
  session: null,
  number: 0,
  tomogram: null,
  cursor: [0, 0, 0],
  selected: null, // {kind: "particle", number} or {kind: "candidate", one, from}; `shown` once its slice is
  large: "z",
  tab: "particles",
  marks: true,
  look: { thickness: 5, smoothing: 1, contrast: 0, brightness: 0 },
  chosen: false, // whether a person has set how slices are shown
  shown: null, // proposals that are shown; null for as many as suggested
  review: null, // the queue of the review, as the server gave it
  source: "", // what is reviewed: "" for nothing yet, "proposals", or a round's number
  order: "teach",
  onlyHere: false, // whether the review keeps to the tomogram that is shown
};

const listeners = new Set();
let waiting = false;

export function listen(listener) {
  listeners.add(listener);
}

// Once a frame, however much has changed.
export function changed() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    for (const listener of listeners) listener();
  });
}

export function radius() {
  const diameter = state.session?.diameter;
  if (!state.tomogram) return 10;
  return diameter ? diameter / 2 / state.tomogram.voxel_size : Math.min(12, state.tomogram.shape[0] / 4);
}

export function shownProposals() {
  const proposals = state.tomogram?.proposals;
  if (!proposals) return [];
  return proposals.at.slice(0, state.shown ?? proposals.suggested);
}

// Averages and smooths slices until a particle of the given size shows at the noise of a raw
// tomogram, as the pictures of `tomopicker pick` do; what a person has chosen stays.
export function suitLook() {
  if (state.chosen || !state.session.diameter) return;
  const voxels = radius();
  state.look.thickness = Math.max(1, Math.min(31, Math.round(0.7 * voxels)));
  state.look.smoothing = Math.min(4, Math.round(4 * voxels / 7) / 4);
}

export const $ = (id) => document.getElementById(id);

export function report(error) {
  $("problem-text").textContent = error.message ?? String(error);
  $("problem").hidden = false;
  if (!(error instanceof Refused)) console.error(error);
}

export function clearReport() {
  $("problem").hidden = true;
}

// Runs what a person asked for, and shows what went wrong with it.
export async function attempt(work) {
  try {
    const result = await work();
    return result;
  } catch (error) {
    report(error);
    return null;
  }
}

let saving = 0;

export async function act(action) {
  saving += 1;
  $("saved").textContent = "Saving …";
  try {
    const done = await postJSON("api/act", action);
    clearReport();
    await refresh();
    return done;
  } catch (error) {
    report(error);
    // Show what the server has, not what was hoped for.
    await refresh().catch(() => {});
    return null;
  } finally {
    saving -= 1;
    if (!saving) $("saved").textContent = $("problem").hidden ? "All saved" : "Not saved";
  }
}

export async function refresh() {
  state.session = await getJSON("api/session");
  const number = state.number;
  const tomogram = await getJSON(`api/tomograms/${number}`);
  if (number !== state.number) return;
  state.tomogram = tomogram;
  if (state.source && state.session.diameter) await refreshReview();
  changed();
}

let asked = 0;

// The queue as it is now; an answer that a later one has overtaken is not shown.
export async function refreshReview() {
  const number = state.number;
  const turn = ++asked;
  const round = state.source === "proposals" ? "" : `&round=${state.source}&only_here=${state.onlyHere}`;
  const review = await getJSON(`api/tomograms/${number}/review?order=${state.order}${round}`);
  if (number === state.number && turn === asked) state.review = review;
  return review;
}

// One that cannot be read is not gone to.
export async function goToTomogram(number) {
  const tomogram = await getJSON(`api/tomograms/${number}`).finally(changed);
  state.number = number;
  state.selected = null;
  state.review = null;
  state.shown = null;
  state.tomogram = tomogram;
  state.cursor = state.tomogram.shape.map((size) => Math.floor(size / 2));
  if (state.source && state.session.diameter) await refreshReview();
  changed();
}

export function goTo(at) {
  state.cursor = at.map((value, axis) => Math.max(0, Math.min(state.tomogram.shape[axis] - 1, value)));
  changed();
}
