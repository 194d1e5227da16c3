// Step 3: verdicts by key on what the model or the matched filter found.

import { $, attempt, changed, goTo, goToTomogram, listen, refreshReview, state, suitLook } from "./state.js";
import { judge } from "./view.js";

let views = [];
let lastShown = "";

export function setUpReview(allViews) {
  views = allViews;
  $("accept").addEventListener("click", () => answer("accept"));
  $("reject").addEventListener("click", () => answer("reject"));
  $("skip").addEventListener("click", () => answer("skip"));
  $("source").addEventListener("change", () => attempt(() => startReview($("source").value)));
  $("order").addEventListener("change", () => attempt(async () => {
    state.order = $("order").value;
    await next();
  }));
  $("only-here").addEventListener("change", () => attempt(async () => {
    state.onlyHere = $("only-here").checked;
    await openReview();
  }));
  listen(show);
}

export async function startReview(source) {
  state.source = source;
  if (state.tab !== "review") $("tab-review").click();
  if (source === "proposals") state.order = "best";
  else if (state.order === "best") state.order = "teach";
  $("order").value = state.order;
  await attempt(next);
}

export function reviewRound(number) {
  state.source = String(number);
  state.review = null;
  if (state.order === "best") state.order = "teach";
  $("order").value = state.order;
}

// When the step is opened: the newest picks, or else the proposals.
export async function openReview() {
  const rounds = reviewable();
  if (!state.source || (state.source !== "proposals" && !rounds.includes(Number(state.source)))) {
    const source = rounds.length ? String(rounds[0]) : state.tomogram.proposals.at.length ? "proposals" : "";
    if (source) await startReview(source);
    return;
  }
  await attempt(next);
}

// Rounds whose picks are there to look through, the newest first.
function reviewable() {
  return state.session.rounds
    .filter((one) => (state.onlyHere ? one.picked.includes(state.tomogram.name) : one.picked.length))
    .map((one) => one.number)
    .reverse();
}

let turns = 0;

// Nothing is selected, so that no key is answered, until what comes next is known.
async function next() {
  const turn = ++turns;
  deselect();
  const review = await refreshReview();
  if (turn !== turns) return;
  const one = review.queue[0];
  if (one && review.tomograms[0] !== state.number) {
    await goToTomogram(review.tomograms[0]);
    if (turn !== turns) return;
    suitLook();
    for (const view of views) view.fit();
  }
  state.selected = one ? { kind: "candidate", one, from: state.source } : null;
  if (one) {
    for (const view of views) view.focus(one.at);
    goTo(one.at);
  }
  changed();
}

// At once: a button that is enabled for a frame longer would take an answer for what comes next.
function deselect() {
  state.selected = null;
  show();
  changed();
}

// A candidate that is on the screen, whether the queue or a click chose it.
const judged = () => (state.selected?.kind === "candidate" && state.selected.shown ? state.selected : null);

export async function answer(said) {
  const what = judged();
  if (!what) return;
  turns += 1;
  deselect();
  const done = await judge(said, what);
  if (done && state.tab === "review" && state.source) await attempt(next);
  changed();
}

function show() {
  if (!state.session || !state.tomogram) return;
  const choices = [
    ...reviewable().map((number) => [String(number), `picks of round ${number}`]),
    ...(state.tomogram.proposals.at.length || state.source === "proposals" ? [["proposals", "proposals"]] : []),
  ];
  if (!choices.length) choices.push(["", "nothing yet: pick first"]);
  const key = JSON.stringify(choices);
  if (key !== lastShown) {
    $("source").replaceChildren(...choices.map(([value, text]) => new Option(text, value)));
    lastShown = key;
  }
  if (choices.some(([value]) => value === state.source)) $("source").value = state.source;
  const candidate = state.selected?.kind === "candidate" ? state.selected.one : null;
  $("only-here-field").hidden = state.session.tomograms.length < 2 || state.source === "proposals";
  for (const id of ["accept", "reject", "skip"]) $(id).disabled = !judged();
  $("candidate").replaceChildren(...describe(candidate));
  const review = state.review;
  $("review-counts").textContent = review
    ? `${review.counts.accept} accepted, ${review.counts.reject} rejected, ${review.counts.skip} put off; ${review.left} wait.`
    : "";
  $("review-sample").textContent = review ? sample(review) : "";
}

function describe(candidate) {
  const heading = document.createElement("strong");
  const text = document.createElement("span");
  if (!candidate) {
    heading.textContent = state.review && !state.review.left ? "Nothing waits for a verdict." : "No candidate is selected.";
    text.textContent = state.review?.left ? "Choose what to look through, or click a circle." : "";
    return [heading, text];
  }
  const [z, y, x] = candidate.at.map((value) => value.toFixed(1));
  heading.textContent = candidate.probability === null
    ? `Score ${candidate.score.toFixed(2)}`
    : `Probability ${Math.round(100 * candidate.probability)} %, score ${candidate.score.toFixed(2)}`;
  const place = state.selected.from === "proposals" ? "Proposed" : candidate.picked ? "In the list" : "Below the cut-off";
  text.textContent = `${place} · x ${x}, y ${y}, z ${z}`;
  return [heading, text];
}

function sample(review) {
  if (state.source === "proposals" || state.order !== "random") return "";
  const { count, share, low, high } = review.sample;
  const percent = (value) => `${Math.round(100 * value)} %`;
  if (!count) return "Judge 20 or more of these picks, drawn at random: the share of right ones tells of all that nobody has looked at.";
  return `Of ${count} picks drawn at random, ${percent(share)} are right: of all that nobody had looked at, between ${percent(low)} and ${percent(high)}.`;
}
