// Step 2: train and pick, with what they say while they are at it.

import { deleteJSON, postJSON } from "./api.js";
import { $, attempt, clearReport, listen, refresh, state } from "./state.js";

export function setUpTraining() {
  $("train").addEventListener("click", () => attempt(train));
  $("retrain").addEventListener("click", () => attempt(async () => {
    await train();
    $("tab-training").click();
  }));
  $("go-on").addEventListener("click", () => attempt(async () => {
    await start({ do: "train", resume: state.session.job.round });
  }));
  $("pick-this").addEventListener("click", () => attempt(() => pick([state.number])));
  $("pick-all").addEventListener("click", () => attempt(() => pick(state.session.tomograms.map((_, number) => number))));
  $("cancel").addEventListener("click", () => attempt(async () => {
    await deleteJSON("api/job");
    await refresh();
  }));
  $("pick-end").addEventListener("change", () => {
    $("pick-count-field").hidden = $("pick-end").value !== "count";
  });
  listen(show);
}

async function start(wish) {
  const { round } = await postJSON("api/job", wish);
  clearReport();
  await refresh();
  return round;
}

async function train() {
  const settings = $("settings").value.split("\n").map((line) => line.trim()).filter(Boolean);
  const wish = { do: "train", settings, device: $("device").value };
  if ($("epochs").value) wish.epochs = Number($("epochs").value);
  const round = await start(wish);
  fillRounds($("pick-round"), round);
}

async function pick(tomograms) {
  const end = $("pick-end").value;
  const wish = { do: "pick", round: Number($("pick-round").value), tomograms, device: $("device").value };
  if (end === "count") wish.count = Number($("pick-count").value);
  else if (end) wish.fdr = Number(end);
  await start(wish);
}

// Rounds to choose from, the newest first; the choice of a person stays.
export function fillRounds(select, wanted = null) {
  const rounds = [...state.session.rounds].reverse();
  const labels = rounds.map((one) => [String(one.number), label(one)]);
  const same = labels.length === select.options.length && labels.length
    && labels.every(([value, text], row) => select.options[row].value === value && select.options[row].text === text);
  if (same && wanted === null) return;
  const newest = Math.max(0, ...[...select.options].map((one) => Number(one.value)));
  const arrived = rounds.find((one) => one.number > newest);
  const chosen = wanted ?? arrived?.number ?? select.value;
  select.replaceChildren(...labels.map(([value, text]) => new Option(text, value)));
  if (!labels.length) select.replaceChildren(new Option("no model yet", ""));
  if (labels.length) select.value = String(chosen || labels[0][0]);
  if (labels.length && select.selectedIndex < 0) select.selectedIndex = 0;
}

function label(round) {
  if (round.elsewhere) return `round ${round.number} (a run given)`;
  if (!round.ready) return `round ${round.number} (no model yet)`;
  return round.whole ? `round ${round.number}` : `round ${round.number} (not finished)`;
}

function rejections(session) {
  return `, and from ${session.rejected} rejected place${session.rejected > 1 ? "s" : ""}.`;
}

function show() {
  if (!state.session || !state.tomogram) return;
  const { session } = state;
  const job = session.job;
  const busy = job?.state === "running";
  const particles = session.tomograms.reduce((sum, one) => sum + one.particles, 0);
  const taught = session.tomograms.filter((one) => one.particles).length;
  $("train-with").textContent = particles
    ? `Learns from ${particles} particles in ${taught} tomogram${taught > 1 ? "s" : ""}`
      + (session.rejected ? rejections(session) : ".")
    : "Click some particles first.";
  $("train").disabled = $("retrain").disabled = busy || !particles || !session.diameter;
  fillRounds($("pick-round"));
  const chosen = session.rounds.find((one) => String(one.number) === $("pick-round").value);
  $("pick-this").disabled = $("pick-all").disabled = busy || !chosen?.ready;
  $("job").hidden = !job;
  if (!job) return;
  $("job-message").textContent = busy && job.seconds !== null ? `${job.message} ${duration(job.seconds)}` : job.message;
  if (busy && job.share === null) $("job-share").removeAttribute("value");
  else $("job-share").value = job.state === "done" ? 1 : job.share ?? 0;
  $("job-share").hidden = !busy;
  $("cancel").hidden = !busy;
  $("go-on").hidden = busy || job.kind !== "train" || job.state === "done" || !job.round;
  const log = $("job-log");
  if (log.textContent !== job.log) {
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
    log.textContent = job.log;
    if (atEnd) log.scrollTop = log.scrollHeight;
  }
}

function duration(seconds) {
  const whole = Math.round(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}
