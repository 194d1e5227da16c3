"use strict";
// One slice at a time with a slider; without this, all slices stand side by side.
for (const strip of document.querySelectorAll(".slices")) {
  const figures = Array.from(strip.querySelectorAll("figure"));
  if (figures.length < 2) continue;
  const name = strip.dataset.name;
  const controls = document.createElement("div");
  controls.className = "controls";

  const slider = document.createElement("input");
  slider.type = "range";
  slider.min = "0";
  slider.max = String(figures.length - 1);
  slider.value = String(Math.floor(figures.length / 2));
  const sliderLabel = document.createElement("label");
  sliderLabel.append("Slice", slider);

  const boxes = document.createElement("input");
  boxes.type = "checkbox";
  boxes.checked = true;
  const boxesLabel = document.createElement("label");
  boxesLabel.append(boxes, "Boxes");

  const all = document.createElement("input");
  all.type = "checkbox";
  const allLabel = document.createElement("label");
  allLabel.append(all, "All slices");

  const show = () => {
    const chosen = Number(slider.value);
    figures.forEach((figure, index) => { figure.hidden = !all.checked && index !== chosen; });
    strip.classList.toggle("one", !all.checked);
    strip.classList.toggle("plain", !boxes.checked);
    slider.disabled = all.checked;
    const caption = figures[chosen].querySelector("figcaption").textContent;
    slider.setAttribute("aria-valuetext", caption);
  };
  slider.setAttribute("aria-label", "Slice of " + name);
  for (const input of [slider, boxes, all]) input.addEventListener("input", show);
  controls.append(sliderLabel, boxesLabel, allLabel);
  strip.before(controls);
  show();
}
