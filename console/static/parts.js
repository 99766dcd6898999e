// Pieces that several views show.

import { h, ticker } from "./dom.js";
import { ago, duration, exact, now, seconds } from "./format.js";

export const STATUSES = ["pending", "running", "suspended", "stalled", "completed", "failed", "terminated"];
const FINISHED = new Set(["completed", "failed", "terminated"]);

export function finished(status) {
  return FINISHED.has(status);
}

export function chip(status) {
  return h("span", { class: `chip s-${STATUSES.includes(status) ? status : "other"}` }, status);
}

/** `3 min ago`, with the time itself in its title. */
export function when(time) {
  if (!time) return "";
  return ticker("time", { datetime: new Date(time / 1000).toISOString(), title: exact(time) }, () => ago(time));
}

/** How long it took, or has taken so far. */
export function span(from, to) {
  if (!from) return "";
  if (to) return h("span", { title: `${exact(from)} – ${exact(to)}` }, duration(to - from));
  return ticker("span", { class: "ongoing", title: `since ${exact(from)}` }, () => duration(seconds(now() - from)));
}

export function instanceLink(id, attributes) {
  return h("a", { href: `#/instances/${encodeURIComponent(id)}`, ...attributes }, h("bdi", { class: "mono" }, id));
}

export function actorLink(type, id, attributes) {
  const href = `#/actors/${encodeURIComponent(type)}/${encodeURIComponent(id)}`;
  return h("a", { href, ...attributes }, h("bdi", { class: "mono" }, id));
}

export function mono(text) {
  return h("bdi", { class: "mono" }, text);
}

/** A named section. */
export function card(title, attributes, ...children) {
  const { extra, ...rest } = attributes ?? {};
  return h(
    "section",
    { ...rest, class: `card ${rest.class ?? ""}`.trim() },
    h("div", { class: "card-head" }, h("h2", {}, title), extra ?? null),
    ...children,
  );
}

/** A table: `columns` are `{title, class}`. Rows go into its `body`. */
export function table(caption, columns, attributes) {
  const body = h("tbody", {});
  const element = h(
    "table",
    attributes ?? {},
    h("caption", { class: "hidden" }, caption),
    h("thead", {}, h("tr", {}, columns.map((one) => h("th", { scope: "col", class: one.class }, one.title)))),
    body,
  );
  return { element: h("div", { class: "scroll" }, element), body };
}

/** Names and values, in a row. */
export function facts(found) {
  return h(
    "dl",
    { class: "facts" },
    found
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

/** "1 – 100 of 1,001", and the ways to both sides. `go(start)`. */
export function pager(start, shown, total, size, go) {
  if (total <= size && start === 0) return null;
  const to = start + shown;
  const format = (value) => value.toLocaleString("en");
  return h(
    "div",
    { class: "pager" },
    h("button", { class: "button", type: "button", disabled: start === 0, onclick: () => go(0) }, "First"),
    h(
      "button",
      { class: "button", type: "button", disabled: start === 0, onclick: () => go(Math.max(start - size, 0)) },
      "Earlier",
    ),
    h("span", {}, `${format(shown ? start + 1 : start)} – ${format(to)} of ${format(total)}`),
    h("button", { class: "button", type: "button", disabled: to >= total, onclick: () => go(to) }, "Later"),
    h(
      "button",
      {
        class: "button",
        type: "button",
        disabled: to >= total,
        onclick: () => go(Math.floor((total - 1) / size) * size),
      },
      "Last",
    ),
  );
}
