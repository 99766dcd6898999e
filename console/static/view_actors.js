// #/actors

import { fill, h, keyed } from "./dom.js";
import { count, number, typeName } from "./format.js";
import { actorLink, card, instanceLink, table } from "./parts.js";

/** Ids of one type that are shown at once. */
const SHOWN = 24;

export function show(root, page) {
  page.title("Actors");
  const made = table("Actor types", [
    { title: "Actor type" },
    { title: "Active", class: "number" },
    { title: "Active here", class: "number" },
    { title: "Partitions", class: "number" },
    { title: "Nodes", class: "number" },
  ]);
  const active = h("div", {});
  const type = h("select", { "aria-label": "Actor type" });
  const id = h("input", { type: "search", placeholder: "Actor id   /", "aria-label": "Actor id", spellcheck: "false", autocomplete: "off" });
  const open = h(
    "form",
    {
      class: "filters",
      onsubmit: (event) => {
        event.preventDefault();
        const wanted = id.value.trim();
        if (wanted && type.value) location.hash = `#/actors/${encodeURIComponent(type.value)}/${encodeURIComponent(wanted)}`;
      },
    },
    type,
    id,
    h("button", { class: "button" }, "Open"),
  );
  fill(root, h("h1", { class: "hidden" }, "Actors"), open, made.element, active);
  page.watch({ view: "actors" }, ({ types }) => {
    keyed(made.body, types, (one) => one.name, renderType);
    // What users named comes before what is the runtime's own.
    const ordered = [...types].sort((one, other) => Number(one.internal) - Number(other.internal));
    keyed(type, ordered.map((one) => one.name), (name) => name, (name) => h("option", { value: name }, typeName(name)));
    keyed(active, ordered.filter((one) => one.here), (one) => one.name, renderActive);
  });
}

function renderType(one) {
  return h(
    "tr",
    {},
    h("td", {}, h("bdi", { class: "strong" }, typeName(one.name)), one.internal ? h("div", { class: "note mono" }, one.name) : null),
    h("td", { class: "number" }, number(one.activations)),
    h("td", { class: "number" }, number(one.here)),
    h("td", { class: "number" }, number(one.partitions)),
    h("td", { class: "number" }, number(one.nodes)),
  );
}

function renderActive(one) {
  const isWorkflow = one.internal && one.name.endsWith(".workflow");
  const more = one.here - Math.min(one.ids.length, SHOWN);
  return card(
    `${typeName(one.name)} in the memory of this node`,
    { extra: h("span", { class: "note" }, count(one.here, "actor")) },
    h(
      "ul",
      { class: "ids" },
      one.ids.slice(0, SHOWN).map((id) => h("li", {}, isWorkflow ? instanceLink(id, { class: "row" }) : actorLink(one.name, id, { class: "row" }))),
      more > 0 ? h("li", { class: "note" }, `and ${number(more)} more`) : null,
    ),
  );
}
