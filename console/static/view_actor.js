// #/actors/<type>/<id>

import { fill, h, keyed } from "./dom.js";
import { bytes, count, exact, typeName } from "./format.js";
import { payload } from "./json.js";
import { card, facts, instanceLink, mono, table, when } from "./parts.js";

const PAGE = 100;

export function show(root, page) {
  const [, type, id] = page.route.parts;
  page.title(`${id} · ${typeName(type)}`);
  new Actor(root, page, type, id);
}

class Actor {
  constructor(root, page, type, id) {
    this.page = page;
    this.type = type;
    this.id = id;
    this.about = h("div", {});
    this.keys = h("ol", { class: "events" });
    this.nothing = h("p", { class: "note" });
    this.pager = h("div", { class: "pager" });
    this.keyCount = h("span", { class: "note" });
    const reminders = table("Reminders", [{ title: "Name" }, { title: "Due" }, { title: "Data" }]);
    this.reminders = reminders.body;
    this.reminderCard = card("Reminders", {}, reminders.element);
    this.reminderCard.hidden = true;
    fill(
      root,
      h("nav", { class: "crumbs", "aria-label": "Where this is" }, h("a", { href: "#/actors", "data-key": "up" }, "Actors"), " / ", h("bdi", {}, typeName(type)), " / ", mono(id)),
      h("div", { class: "head" }, h("div", { class: "title" }, h("h1", {}, mono(id))), h("p", { class: "under" }, mono(type)), this.about),
      this.reminderCard,
      card("State", { extra: this.keyCount }, this.keys, this.nothing, this.pager),
    );
    this.from("");
  }

  /** Shows the page of keys that begins with this cursor. */
  from(start) {
    this.watch?.close();
    this.start = start;
    this.watch = this.page.watch({ view: "actor", type: this.type, id: this.id, start, limit: PAGE }, (value) => this.update(value));
  }

  update(value) {
    const isWorkflow = value.internal && value.type.endsWith(".workflow");
    keyed(this.about, [{ owner: value.owner, inMemory: value.inMemory }], () => "only", ({ owner, inMemory }) =>
      facts([
        ["lives on", owner ? mono(owner.slice(0, 8)) : "no node"],
        ["in memory here", inMemory ? "yes" : "no"],
        ["workflow", isWorkflow ? instanceLink(value.id) : null],
      ]),
    );
    keyed(this.keys, value.keys, (one) => one.key, (one, _, before) => this.renderKey(one, before));
    this.keyCount.textContent = count(value.keys.length, "key") + (value.cursor || this.start ? " on this page" : "");
    this.nothing.textContent = value.keys.length ? "" : "This actor has no state.";
    this.reminderCard.hidden = !value.reminders.length;
    keyed(this.reminders, value.reminders, (one) => one.name, renderReminder);
    fill(
      this.pager,
      this.start ? h("button", { class: "button", type: "button", "data-key": "newer", onclick: () => this.from("") }, "First") : null,
      value.cursor ? h("button", { class: "button", type: "button", "data-key": "older", onclick: () => this.from(value.cursor) }, "Next") : null,
    );
    this.pager.hidden = !this.start && !value.cursor;
  }

  renderKey(one, before) {
    const body = h("div", { class: "event-body" }, payload(one.value));
    if (one.value.cut) body.append(this.whole(one));
    const open = before ? before.firstElementChild.open : !one.value.cut && one.value.length <= 400;
    return h(
      "li",
      {},
      h("details", { open }, h("summary", {}, h("bdi", { class: "mono strong key" }, one.key), h("span", { class: "note" }, bytes(one.bytes))), body),
    );
  }

  whole(one) {
    const button = h("button", { class: "quiet", type: "button" }, "Show all of it");
    button.addEventListener("click", async () => {
      const found = await this.page.ask("console/value", { type: this.type, id: this.id, key: one.key });
      if (found?.value) button.parentElement.replaceChildren(payload(found.value));
    });
    return button;
  }
}

function renderReminder(one) {
  return h(
    "tr",
    {},
    h("td", {}, mono(one.name)),
    h("td", {}, when(one.due), h("span", { class: "note" }, ` · ${exact(one.due)}`)),
    h("td", { class: "mono" }, one.data ? h("bdi", {}, one.data.text) : ""),
  );
}
