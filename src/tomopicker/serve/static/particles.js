// Step 1: the particle's size, clicks, and what the matched filter proposes from them.

import { Refused, postJSON } from "./api.js";
import { deleteSelected } from "./view.js";
import { $, act, attempt, changed, clearReport, listen, refresh, shownProposals, state, suitLook } from "./state.js";

const STEP = 5; // clicks after which to propose again

export function setUpParticles(startReview) {
  $("diameter").addEventListener("change", () => attempt(async () => {
    const diameter = Number($("diameter").value);
    if (!(diameter > 0)) throw new Refused("The diameter must be a number of ångström above 0.");
    await postJSON("api/diameter", { diameter });
    clearReport();
    await refresh();
    suitLook();
    maybePropose();
  }));
  $("delete").addEventListener("click", deleteSelected);
  $("propose").addEventListener("click", () => attempt(propose));
  $("shown").addEventListener("input", () => {
    state.shown = Number($("shown").value);
    changed();
  });
  $("accept-all").addEventListener("click", acceptAll);
  $("walk").addEventListener("click", () => startReview("proposals"));
  document.addEventListener("added", maybePropose);
  listen(show);
}

async function propose() {
  await postJSON(`api/tomograms/${state.number}/propose`);
  clearReport();
  await refresh();
}

function maybePropose() {
  const { particles, proposals } = state.tomogram;
  if (!$("automatic").checked || !state.session.diameter || proposals.state === "busy") return;
  if (particles.length >= state.session.fewest && particles.length >= proposals.clicks + STEP) attempt(propose);
}

async function acceptAll() {
  const shown = shownProposals();
  if (!shown.length) return;
  await act({ do: "judge", tomogram: state.tomogram.name, answer: "accept", order: "best", shown });
  state.shown = null;
  changed();
}

function show() {
  if (!state.tomogram) return;
  const { session, tomogram } = state;
  const { particles, proposals } = tomogram;
  if (document.activeElement !== $("diameter")) $("diameter").value = session.diameter ?? "";
  $("diameter-hint").textContent = session.diameter
    ? `${(session.diameter / tomogram.voxel_size).toFixed(1)} voxels of ${tomogram.voxel_size} Å. The circle at the pointer should just enclose a particle.`
    : "Say how large the particle is: the circle at the pointer should just enclose it.";
  const clicked = particles.filter((one) => one.from === "click").length;
  const accepted = particles.length - clicked;
  $("click-count").textContent = accepted ? `${clicked} + ${accepted} accepted` : `${clicked}`;
  $("click-hint").textContent = hint(particles.length, session);
  $("delete").disabled = state.selected?.kind !== "particle";
  const open = proposals.at.length;
  $("proposal-slider").hidden = !open;
  $("shown").max = open;
  $("shown").value = state.shown ?? proposals.suggested;
  $("shown-value").textContent = `${shownProposals().length} of ${open}`;
  $("proposal-state").textContent = progress(proposals, particles.length, session);
  const all = session.tomograms.reduce((most, one) => Math.max(most, one.particles), 0);
  $("propose").disabled = all < session.fewest || !session.diameter || proposals.state === "busy";
  $("walk").disabled = !open;
  $("accept-all").disabled = !shownProposals().length;
  $("accept-all").textContent = open ? `Accept all ${shownProposals().length} shown` : "Accept all shown";
}

function hint(count, session) {
  if (count < session.fewest) return `Click the centres of ${session.fewest} particles in any view; ${session.fewest - count} to go.`;
  if (count < 50) return "Enough for proposals. From about 50 to 100, training does its best; from 10 it works.";
  return "Enough to train.";
}

function progress(proposals, count, session) {
  if (proposals.state === "busy") return "Looking for what looks alike …";
  if (proposals.state === "failed") return `No proposals: ${proposals.why}`;
  if (proposals.clicks) return `Learned from ${proposals.clicks} particles; click a circle to accept it, right-click to reject.`;
  if (!session.diameter) return "Set the particle's diameter first.";
  return `After ${session.fewest} clicks, the rest is proposed within seconds.`;
}
