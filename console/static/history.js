// The events of one instance as they are stored: a page at a time, each decoded, and as bytes.

import { h, keyed } from "./dom.js";
import { bytes, count, exact, number } from "./format.js";
import { payload } from "./json.js";
import { card, pager } from "./parts.js";

const PAGE = 50;

export class History {
  constructor(page, id) {
    this.page = page;
    this.id = id;
    this.start = 0;
    this.rows = h("ol", { class: "events" });
    this.pager = h("div", {});
    this.summary = h("span", { class: "note" });
    this.details = h("details", { ontoggle: () => this.details.open && this.load() }, h("summary", {}, "Events"), this.rows, this.pager);
    this.element = card("History", { class: "history", extra: this.summary }, this.details);
  }

  update(value) {
    this.summary.textContent = count(value.history, "event");
    const changed = this.total !== value.history || this.execution !== value.executionId;
    if (this.execution !== value.executionId) this.start = 0;
    this.total = value.history;
    this.execution = value.executionId;
    // A page that is full does not change any more.
    const full = this.shown === PAGE;
    if (changed && this.details.open && !full) this.load();
  }

  async load() {
    const start = this.start;
    const found = await this.page.ask("console/history", { id: this.id, start, limit: PAGE });
    if (!found || start !== this.start) return;
    this.shown = found.items.length;
    keyed(this.rows, found.items, (event) => event.number, (event) => renderEvent(event, this));
    this.pager.replaceChildren();
    const made = pager(start, this.shown, this.total, PAGE, (to) => this.go(to));
    if (made) this.pager.append(made);
  }

  go(start) {
    this.start = start;
    this.load();
  }
}

function renderEvent(event, history) {
  const body = h("div", { class: "event-body" });
  const details = h(
    "details",
    {
      ontoggle: () => {
        if (details.open && !body.firstChild) body.append(payload(event.fields), stored(event, history));
      },
    },
    h(
      "summary",
      {},
      h("span", { class: "no" }, number(event.number)),
      h("span", { class: `event-type t-${event.type}` }, event.type),
      h("span", { class: "brief mono" }, h("bdi", {}, event.brief)),
      h("time", {}, event.at ? exact(event.at) : ""),
    ),
    body,
  );
  return h("li", {}, details);
}

/** The bytes of the key, on demand. */
function stored(event, history) {
  const place = h("div", {});
  const button = h("button", { class: "quiet", type: "button" }, `as stored, ${bytes(event.bytes)}`);
  button.addEventListener("click", async () => {
    const found = await history.page.ask("console/history", { id: history.id, start: event.number, limit: 1, stored: "true" });
    const one = found?.items[0];
    if (one?.number !== event.number) return;
    place.replaceChildren(h("p", { class: "note" }, `key ${one.key}, msgpack`), h("pre", { class: "json", tabindex: "0" }, hexDump(one.stored)));
    button.remove();
  });
  return h("div", {}, button, place);
}

function hexDump(base64) {
  const data = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
  const lines = [];
  for (let at = 0; at < data.length; at += 16) {
    const part = [...data.slice(at, at + 16)];
    const hex = part.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const text = part.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : "·")).join("");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${hex.padEnd(47)}  ${text}`);
  }
  return lines.join("\n");
}
