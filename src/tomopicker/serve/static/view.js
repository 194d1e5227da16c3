// A canvas that shows slices along one axis, with circles, and takes clicks.

import { Refused, getPicture } from "./api.js";
import { AXES, act, attempt, changed, goTo, radius, report, shownProposals, state } from "./state.js";

const COLOURS = { click: "#2ee6a8", proposal: "#ffb000", pick: "#56b4e9", rejected: "#ff7a5c" };
const DASHES = { click: [], proposal: [5, 4], pick: [3, 3] };
const KEPT = 48; // slices, to go back and forth without asking again
const NEAR = 4; // pixels that a click may shake

export class SliceView {
  constructor(figure) {
    this.axis = figure.dataset.axis;
    this.canvas = figure.querySelector("canvas");
    this.caption = figure.querySelector("figcaption");
    this.index = AXES.indexOf(this.axis);
    // Axes of the rows and the columns: y x, z x and y z.
    [this.down, this.right] = { z: [1, 2], y: [0, 2], x: [1, 0] }[this.axis];
    this.kept = new Map();
    this.picture = null;
    this.asking = false;
    this.note = "";
    this.scale = 1;
    this.middle = [0, 0]; // voxel in the middle: row, column
    this.fitted = true;
    this.pointer = null;
    this.drag = null;
    this.wheel = 0;
    new ResizeObserver(() => this.resized()).observe(this.canvas);
    this.canvas.addEventListener("pointerdown", (event) => this.pressed(event));
    this.canvas.addEventListener("pointermove", (event) => this.moved(event));
    this.canvas.addEventListener("pointerup", (event) => this.released(event));
    this.canvas.addEventListener("pointercancel", () => { this.drag = null; changed(); });
    this.canvas.addEventListener("pointerleave", () => { this.pointer = null; changed(); });
    this.canvas.addEventListener("wheel", (event) => this.wheeled(event), { passive: false });
    this.canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  // Where voxel coordinates are on the canvas, in CSS pixels.
  place(at) {
    return [
      this.width / 2 + (at[this.right] - this.middle[1]) * this.scale,
      this.height / 2 + (at[this.down] - this.middle[0]) * this.scale,
    ];
  }

  // The voxel, in this slice, under a place on the canvas.
  voxel(x, y) {
    const at = [...state.cursor];
    at[this.index] = Math.round(at[this.index]);
    at[this.right] = this.middle[1] + (x - this.width / 2) / this.scale;
    at[this.down] = this.middle[0] + (y - this.height / 2) / this.scale;
    return at;
  }

  inside(at) {
    return at.every((value, axis) => value >= -0.5 && value <= state.tomogram.shape[axis] - 0.5);
  }

  fit() {
    if (!state.tomogram || !this.width) return;
    const [rows, columns] = [state.tomogram.shape[this.down], state.tomogram.shape[this.right]];
    this.scale = Math.min(this.width / columns, this.height / rows);
    this.middle = [(rows - 1) / 2, (columns - 1) / 2];
    this.fitted = true;
    changed();
  }

  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const before = this.voxel(x, y);
    this.scale = Math.max(0.1, Math.min(40, this.scale * factor));
    const after = this.voxel(x, y);
    this.middle = [
      this.middle[0] + before[this.down] - after[this.down],
      this.middle[1] + before[this.right] - after[this.right],
    ];
    this.fitted = false;
    changed();
  }

  // Brings a place to the middle, near enough to see one particle among its neighbours.
  focus(at, radii = 14) {
    const wanted = Math.min(this.width, this.height) / (radii * radius());
    this.scale = Math.max(this.scale, Math.min(wanted, 12));
    this.middle = [at[this.down], at[this.right]];
    this.fitted = false;
  }

  resized() {
    const box = this.canvas.getBoundingClientRect();
    if (!box.width || !box.height) return;
    const dense = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(box.width * dense);
    this.canvas.height = Math.round(box.height * dense);
    [this.width, this.height] = [box.width, box.height];
    if (this.fitted) this.fit();
    changed();
  }

  key() {
    const { thickness, smoothing, contrast, brightness } = state.look;
    const at = Math.round(state.cursor[this.index]);
    const steep = (2 ** contrast).toFixed(3);
    return `api/tomograms/${state.number}/slice?axis=${this.axis}&at=${at}&thickness=${thickness}`
      + `&smoothing=${smoothing}&contrast=${steep}&brightness=${brightness}`;
  }

  // Asks for one slice at a time, and then for the one that is wanted by now.
  async load() {
    if (!state.tomogram || !this.width || this.asking) return;
    const key = this.key();
    if (this.kept.has(key)) {
      this.show(key, this.kept.get(key));
      return;
    }
    this.asking = true;
    try {
      const picture = await getPicture(key);
      this.kept.set(key, picture);
      if (this.kept.size > KEPT) {
        const [oldest, old] = this.kept.entries().next().value;
        this.kept.delete(oldest);
        if (old !== this.picture) old.close();
      }
      this.note = "";
      this.show(key, picture);
    } catch (error) {
      if (error instanceof Refused && error.status === 503) {
        this.note = `Reading the tomogram for ${this.title()} slices: ${Math.round(100 * error.answer.share)} %`;
        this.picture = null;
        this.draw();
        setTimeout(changed, 400);
      } else {
        report(error);
        if (error.status === 0) setTimeout(changed, 3000);
      }
    } finally {
      this.asking = false;
    }
    if (!this.note && this.key() !== key) changed();
  }

  show(key, picture) {
    this.picture = picture;
    this.draw();
    // Only now is there something to judge a candidate by.
    if (this.axis === state.large && key === this.key() && state.selected && !state.selected.shown) {
      state.selected.shown = true;
      changed();
    }
  }

  title() {
    return { z: "xy", y: "xz", x: "yz" }[this.axis];
  }

  update() {
    if (!state.tomogram) return;
    this.draw();
    this.load();
  }

  draw() {
    const context = this.canvas.getContext("2d");
    if (!state.tomogram || !this.width) return;
    const dense = this.canvas.width / this.width;
    context.setTransform(dense, 0, 0, dense, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, this.width, this.height);
    const [rows, columns] = [state.tomogram.shape[this.down], state.tomogram.shape[this.right]];
    if (this.picture) {
      const corner = [0, 0, 0];
      corner[this.right] = -0.5;
      corner[this.down] = -0.5;
      const [x, y] = this.place(corner);
      context.imageSmoothingEnabled = this.scale < 6;
      context.drawImage(this.picture, x, y, columns * this.scale, rows * this.scale);
    }
    if (state.marks) this.drawMarks(context);
    this.drawCross(context);
    if (this.note) {
      context.fillStyle = "#e8ecf0";
      context.font = "13px system-ui, sans-serif";
      context.textAlign = "center";
      context.fillText(this.note, this.width / 2, this.height / 2, this.width - 16);
    }
    const at = Math.round(state.cursor[this.index]);
    this.caption.textContent = `${this.title()}   ${this.axis} = ${at}`;
  }

  drawMarks(context) {
    for (const at of state.tomogram.rejected) this.drawRejected(context, at);
    if (state.review && state.source !== "proposals") {
      for (const one of state.review.picks) this.drawCircle(context, one.at, "pick");
    }
    for (const one of shownProposals()) this.drawCircle(context, one.at, "proposal");
    for (const one of state.tomogram.particles) {
      const chosen = state.selected?.kind === "particle" && state.selected.number === one.number;
      const at = this.drag?.particle === one.number && this.drag.at ? this.drag.at : one.at;
      this.drawCircle(context, at, "click", chosen);
    }
    if (state.selected?.kind === "candidate") this.drawCircle(context, state.selected.one.at, "pick", true);
    if (this.pointer && !this.drag) {
      context.setLineDash([]);
      context.strokeStyle = "#ffffff66";
      context.lineWidth = 1;
      context.beginPath();
      context.arc(...this.pointer, radius() * this.scale, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  // The sphere of a particle, cut by this slice.
  drawCircle(context, at, kind, chosen = false) {
    const away = Math.abs(at[this.index] - state.cursor[this.index]);
    const whole = radius();
    if (away >= whole) return;
    const cut = Math.max(Math.sqrt(whole * whole - away * away), whole * 0.25) * this.scale;
    const [x, y] = this.place(at);
    context.setLineDash(chosen ? [] : DASHES[kind]);
    if (chosen) {
      context.strokeStyle = "#000000b0";
      context.lineWidth = 4;
      context.beginPath();
      context.arc(x, y, cut, 0, 2 * Math.PI);
      context.stroke();
    }
    context.strokeStyle = chosen ? "#ffffff" : COLOURS[kind];
    context.lineWidth = chosen ? 2 : away < 1 ? 2.2 : 1.5;
    context.beginPath();
    context.arc(x, y, cut, 0, 2 * Math.PI);
    context.stroke();
    if (kind === "click") {
      context.setLineDash([]);
      context.fillStyle = COLOURS.click;
      context.fillRect(x - 1.5, y - 1.5, 3, 3);
    }
  }

  drawRejected(context, at) {
    if (Math.abs(at[this.index] - state.cursor[this.index]) >= radius() / 2) return;
    const [x, y] = this.place(at);
    const arm = Math.max(4, radius() * this.scale * 0.3);
    context.setLineDash([]);
    context.strokeStyle = COLOURS.rejected;
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(x - arm, y - arm);
    context.lineTo(x + arm, y + arm);
    context.moveTo(x + arm, y - arm);
    context.lineTo(x - arm, y + arm);
    context.stroke();
  }

  drawCross(context) {
    const [x, y] = this.place(state.cursor);
    context.setLineDash([]);
    context.strokeStyle = "#ffffff30";
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, this.height);
    context.moveTo(0, y);
    context.lineTo(this.width, y);
    context.stroke();
  }

  // The particle or proposal whose circle is drawn around a place, the nearest first.
  hit(x, y) {
    const whole = radius();
    const found = [];
    const test = (at, what) => {
      if (Math.abs(at[this.index] - state.cursor[this.index]) >= whole) return;
      const [px, py] = this.place(at);
      const away = Math.hypot(px - x, py - y);
      if (away <= Math.max(whole * this.scale * 0.8, 6)) found.push({ away, what });
    };
    for (const one of state.tomogram.particles) test(one.at, { kind: "particle", number: one.number, one });
    for (const one of shownProposals()) test(one.at, { kind: "candidate", one, from: "proposals" });
    if (state.review && state.source !== "proposals") {
      for (const [row, one] of state.review.queue.entries()) {
        if (state.review.tomograms[row] === state.number) test(one.at, { kind: "candidate", one, from: state.source });
      }
    }
    found.sort((a, b) => a.away - b.away);
    return found[0]?.what ?? null;
  }

  pressed(event) {
    if (!state.tomogram) return;
    this.canvas.focus();
    this.canvas.setPointerCapture(event.pointerId);
    // With one button, Ctrl and click is a right click.
    const button = event.button === 0 && event.ctrlKey ? 2 : event.button;
    const what = state.marks && button !== 1 && !event.shiftKey ? this.hit(event.offsetX, event.offsetY) : null;
    this.drag = {
      x: event.offsetX, y: event.offsetY, what, far: false, button,
      middle: [...this.middle],
      particle: button === 0 && what?.kind === "particle" ? what.number : null,
    };
    if (this.drag.particle !== null) {
      const at = [...what.one.at];
      this.drag.offset = this.voxel(event.offsetX, event.offsetY).map((value, axis) => at[axis] - value);
      this.drag.offset[this.index] = 0;
      this.drag.depth = at[this.index];
    }
  }

  moved(event) {
    this.pointer = [event.offsetX, event.offsetY];
    const drag = this.drag;
    if (drag) {
      const [dx, dy] = [event.offsetX - drag.x, event.offsetY - drag.y];
      drag.far ||= Math.hypot(dx, dy) > NEAR;
      if (drag.far && drag.particle !== null) {
        drag.at = this.voxel(event.offsetX, event.offsetY).map((value, axis) => value + drag.offset[axis]);
        drag.at[this.index] = drag.depth;
      } else if (drag.far) {
        this.middle = [drag.middle[0] - dy / this.scale, drag.middle[1] - dx / this.scale];
        this.fitted = false;
      }
    }
    changed();
  }

  async released(event) {
    const drag = this.drag;
    if (!drag) return;
    if (drag.far) {
      if (drag.particle !== null && drag.at && this.inside(drag.at)) {
        state.selected = { kind: "particle", number: drag.particle };
        // Drawn where it was let go until the server has it.
        await act({ do: "move", tomogram: state.tomogram.name, particle: drag.particle, at: drag.at });
      }
      this.drag = null;
      changed();
      return;
    }
    this.drag = null;
    if (drag.button === 2 && drag.what?.kind === "candidate") {
      await judge("reject", drag.what);
      return;
    }
    if (drag.button !== 0) return;
    const at = this.voxel(event.offsetX, event.offsetY);
    if (!this.inside(at)) return;
    if (event.shiftKey) goTo(at);
    else if (drag.what?.from === "proposals" && state.tab === "particles") await judge("accept", drag.what);
    else if (drag.what) this.select(drag.what);
    else await addAt(at);
  }

  select(what) {
    state.selected = what.kind === "particle" ? { kind: "particle", number: what.number } : what;
    goTo(what.one.at);
  }

  wheeled(event) {
    event.preventDefault();
    if (!state.tomogram) return;
    if (event.ctrlKey || event.metaKey) {
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.004)), event.offsetX, event.offsetY);
      return;
    }
    // Trackpads send many small steps, wheels few large ones.
    this.wheel += event.deltaMode ? Math.sign(event.deltaY) * 40 : event.deltaY || event.deltaX;
    const steps = Math.trunc(this.wheel / 40);
    if (!steps) return;
    this.wheel -= steps * 40;
    this.scroll(Math.sign(steps) * Math.min(Math.abs(steps), 5));
  }

  scroll(steps) {
    const at = [...state.cursor];
    at[this.index] = Math.round(at[this.index]) + steps;
    goTo(at);
  }
}

// A verdict on a candidate, which the queue or a click on its circle has chosen.
export async function judge(answer, { one, from }) {
  const order = from === "proposals" ? "best" : state.order;
  // At once: when the server has answered, the person may already look elsewhere.
  if (answer === "accept") goTo(one.at);
  const done = await act({ do: "judge", tomogram: state.tomogram.name, answer, order, shown: [one] });
  if (done && answer === "accept" && from === "proposals") document.dispatchEvent(new CustomEvent("added"));
  return done;
}

export async function addAt(at) {
  goTo(at);
  const done = await act({ do: "add", tomogram: state.tomogram.name, at: [at] });
  if (done) {
    state.selected = { kind: "particle", number: done.number };
    changed();
    document.dispatchEvent(new CustomEvent("added"));
  }
}

export async function deleteSelected() {
  if (state.selected?.kind !== "particle") return;
  const number = state.selected.number;
  state.selected = null;
  await attempt(() => act({ do: "delete", tomogram: state.tomogram.name, particles: [number] }));
}
