// The timeline of one instance: steps as bars. Never more than a page of them.

import { fill, h, keyed, ticker } from "./dom.js";
import { ago, duration, exact, now, number, seconds } from "./format.js";
import { card, instanceLink, mono, pager } from "./parts.js";

const PAGE = 100;
/** Milliseconds between two questions for the same page, however fast the history grows. */
const PAUSE = 500;

const WORDS = {
  started: "started",
  activity: "activity",
  child: "child",
  timer: "timer",
  wait: "event",
  event: "event",
  detached: "detached",
  sent: "event sent",
  suspended: "paused",
  cancelled: "cancelled",
  terminated: "terminated",
  ended: "end",
  unreadable: "unreadable",
};

export class Steps {
  constructor(page, id) {
    this.page = page;
    this.id = id;
    this.start = 0;
    /** Whether the end is what is shown, also as it moves on. */
    this.following = null;
    this.even = false;
    this.legend = h("div", { class: "scale", "aria-hidden": "true" });
    this.rows = h("ol", { class: "steps" });
    this.pager = h("div", {});
    this.mode = h(
      "button",
      { class: "quiet", type: "button", "aria-pressed": "false", title: "Show the order of things, not how long they took", onclick: () => this.toggle() },
      "even out",
    );
    this.element = card("Timeline", { class: "timeline", extra: this.mode }, this.legend, this.rows, this.pager);
    page.cleanup(() => clearTimeout(this.timer));
    // Bars that are not at their end grow.
    const timer = setInterval(() => this.shown?.some(isOpen) && this.draw(), 1000);
    page.cleanup(() => clearInterval(timer));
  }

  /** The instance has changed: the page that is shown may have. */
  update(value) {
    if (this.version === `${value.executionId} ${value.version}`) return;
    this.version = `${value.executionId} ${value.version}`;
    if (this.execution !== value.executionId) {
      this.execution = value.executionId;
      this.start = 0;
      // What happens now is what people look for; what has finished is read from its beginning.
      this.following = !value.completed;
    }
    this.total = value.steps;
    this.finished = value.completed;
    this.ask();
  }

  go(start) {
    this.following = start + PAGE >= this.total;
    this.start = start;
    this.load();
  }

  ask() {
    if (this.timer || this.loading) {
      this.again = true;
      return;
    }
    this.load();
  }

  async load() {
    this.loading = true;
    this.again = false;
    if (this.following) this.start = Math.max(this.total - PAGE, 0);
    const start = this.start;
    const found = await this.page.ask("console/steps", { id: this.id, start, limit: PAGE });
    this.loading = false;
    if (found && start === this.start) {
      this.shown = found.items;
      this.total = found.steps;
      this.draw();
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.timer = null;
      if (this.again) this.load();
    }, PAUSE);
    if (start !== this.start) this.again = true;
  }

  toggle() {
    this.even = !this.even;
    this.mode.setAttribute("aria-pressed", String(this.even));
    this.draw();
  }

  draw() {
    if (!this.shown) return;
    const scale = this.even ? evenScale(this.shown) : timeScale(this.shown, this.finished);
    keyed(
      this.rows,
      this.shown.map((step) => ({ ...step, bars: bars(step, scale) })),
      (step) => step.step,
      renderStep,
    );
    const long = scale.to - scale.from;
    fill(
      this.legend,
      this.even ? "in order" : [h("span", {}, exact(scale.from)), h("span", {}, long > 0 ? `+ ${duration(long)}` : "")],
    );
    this.element.hidden = !this.shown.length;
    fill(this.pager, pager(this.start, this.shown.length, this.total, PAGE, (start) => this.go(start)));
  }
}

function isOpen(step) {
  return !step.spans.at(-1).outcome;
}

/** Positions from 0 to 1 by time. */
function timeScale(steps, finished) {
  const starts = steps.map((step) => step.spans[0].at);
  const ends = steps.flatMap((step) => step.spans.map((span) => span.ended ?? span.at));
  const from = Math.min(...starts);
  const open = !finished && steps.some(isOpen);
  const to = Math.max(...ends, open ? now() : 0, from + 1000);
  return { from, to, at: (time) => Math.min(Math.max((time - from) / (to - from), 0), 1) };
}

/** Positions by order: the same room between any two moments at which something happened. */
function evenScale(steps) {
  const moments = new Set(steps.flatMap((step) => step.spans.flatMap((span) => [span.at, span.ended ?? span.at])));
  const order = [...moments].sort((one, other) => one - other);
  const places = new Map(order.map((time, index) => [time, index]));
  const last = Math.max(order.length - 1, 1);
  return { from: order[0], to: order.at(-1), at: (time) => (places.has(time) ? places.get(time) / last : 1) };
}

/** Where the bars of a step are, in percent: `[left, width, outcome]`. */
function bars(step, scale) {
  const percent = (share) => Math.round(share * 10_000) / 100;
  const found = step.spans.map((span) => {
    const left = scale.at(span.at);
    const right = span.outcome === "cancelled" ? left : scale.at(span.ended ?? Infinity);
    return [percent(left), percent(right - left), span.outcome || "open", span.at === span.ended];
  });
  const last = step.spans.at(-1);
  if (found.length > 1) {
    // What belongs together.
    const from = scale.at(step.spans[0].at);
    found.unshift([percent(from), percent(scale.at(last.ended ?? Infinity) - from), "line", false]);
  }
  // The time until the next attempt.
  if (step.due && last.outcome === "failed") found.push([percent(scale.at(last.ended)), percent(1 - scale.at(last.ended)), "pause", false]);
  return found;
}

function renderStep(step) {
  const last = step.spans.at(-1);
  const kind = WORDS[step.kind] ?? step.kind;
  return h(
    "li",
    { class: `step k-${step.kind} o-${last.outcome || "open"}` },
    h("span", { class: "no", title: `history event ${last.number}` }, number(step.spans[0].number)),
    h(
      "span",
      { class: "label" },
      h("span", { class: "kind" }, kind),
      " ",
      label(step, last),
      step.spans.length > 1 ? h("span", { class: "tag", title: tries(step) }, `${step.spans.length} attempts`) : null,
      last.error ? h("div", { class: "error", title: last.error }, last.error) : null,
    ),
    h(
      "span",
      { class: "track", "aria-hidden": "true" },
      step.bars.map(([left, width, outcome, point]) =>
        h("span", { class: `bar b-${outcome}${point ? " point" : ""}`, style: { left: `${left}%`, width: `${width}%` } }),
      ),
    ),
    h("span", { class: "took" }, took(step, last)),
  );
}

function label(step, last) {
  switch (step.kind) {
    case "child":
      return [h("bdi", { class: "strong" }, step.name), " ", step.app ? mono(step.instance) : instanceLink(step.instance)];
    case "detached":
    case "sent":
      return [h("bdi", { class: "strong" }, step.name), " → ", step.app ? mono(step.instance) : instanceLink(step.instance)];
    case "timer":
      return step.due ? h("span", {}, `until ${exact(step.due)}`) : "";
    case "ended":
      return h("span", { class: "strong" }, step.name);
    case "wait":
      return [h("bdi", { class: "strong" }, step.name), last.outcome === "fired" ? " did not come in time" : ""];
    default:
      return [h("bdi", { class: "strong" }, step.name), step.app ? ` of app ${step.app}` : ""];
  }
}

function tries(step) {
  return step.spans.map((span, index) => `${index + 1}: ${span.outcome || "running"}${span.error ? `, ${span.error}` : ""}`).join("\n");
}

function took(step, last) {
  const first = step.spans[0];
  if (step.due && last.outcome === "failed") return ["again ", ticker("time", { title: exact(step.due) }, () => ago(step.due))];
  if (last.outcome === "cancelled") return "cancelled";
  if (!last.outcome) {
    if (step.due && step.kind !== "wait") return ["due ", ticker("time", { title: exact(step.due) }, () => ago(step.due))];
    return ticker("span", { class: "ongoing" }, () => duration(seconds(now() - first.at)));
  }
  if (last.ended === first.at) return h("time", { title: exact(first.at) }, "");
  return h("span", { title: `${exact(first.at)} – ${exact(last.ended)}` }, duration(last.ended - first.at), last.outcome === "dropped" ? ", dropped" : "");
}
