// Step 4: lists for other programs.

import { Refused, postJSON } from "./api.js";
import { $, attempt, clearReport, listen, refresh, state } from "./state.js";
import { fillRounds } from "./training.js";

let lastShown = "";

export function setUpExporting() {
  $("export-this").addEventListener("click", () => attempt(() => write([state.number])));
  $("export-all").addEventListener("click", () => attempt(() => write(state.session.tomograms.map((_, number) => number))));
  for (const id of ["content", "format", "least"]) $(id).addEventListener("input", show);
  listen(show);
}

async function write(tomograms) {
  const wish = {
    format: $("format").value,
    content: $("content").value,
    tomograms,
    least: Number($("least").value),
  };
  if ($("export-round").value) wish.round = Number($("export-round").value);
  if (!$("pixel-field").hidden) {
    if (!$("pixel").value) throw new Refused("This format counts in pixels of the tilt series: give their size in ångström.");
    wish.pixel_size = Number($("pixel").value);
  }
  const { folder, files } = await postJSON("api/exports", wish);
  clearReport();
  const count = files.reduce((sum, one) => sum + one.count, 0);
  $("export-done").textContent = `${count} particles in ${files.length} file${files.length > 1 ? "s" : ""} under ${folder}`;
  await refresh();
}

function show() {
  const { session } = state;
  if (!session) return;
  fillRounds($("export-round"));
  $("export-round-field").hidden = $("least-field").hidden = $("content").value !== "final";
  $("least-value").textContent = `${Math.round(100 * Number($("least").value))} %`;
  const key = JSON.stringify([session.formats, session.exports]);
  if (key !== lastShown) {
    const chosen = $("format").value;
    $("format").replaceChildren(...Object.keys(session.formats).map((name) => new Option(name, name)));
    if (chosen) $("format").value = chosen;
    $("exports").replaceChildren(...session.exports.map(link));
    lastShown = key;
  }
  $("pixel-field").hidden = session.formats[$("format").value] !== "pixel_size";
}

function link(name) {
  const item = document.createElement("li");
  const anchor = document.createElement("a");
  anchor.href = `exports/${name.split("/").map(encodeURIComponent).join("/")}`;
  anchor.download = "";
  anchor.textContent = name;
  item.append(anchor);
  return item;
}
