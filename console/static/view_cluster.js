// #/cluster

import { fill, h, keyed, ticker } from "./dom.js";
import { count, duration, exact, now, number, typeName } from "./format.js";
import { card, facts, mono, table } from "./parts.js";

/** Clocks that differ by less, in seconds, need no mention. */
const SAME_TIME = 0.1;

export function show(root, page) {
  page.title("Cluster");
  const about = h("div", {});
  const nodes = h("div", { class: "nodes" });
  const handovers = table("Partitions that change hands", [
    { title: "Actor type" },
    { title: "Partitions", class: "number" },
    { title: "From" },
    { title: "To" },
  ]);
  const moving = card("Changing hands", {}, handovers.element);
  const types = h("div", { class: "shares" });
  const typesCard = card("Partitions by actor type", {}, types);
  fill(root, h("h1", { class: "hidden" }, "Cluster"), about, nodes, moving, typesCard);
  page.watch({ view: "cluster" }, (value) => {
    keyed(about, [{ term: value.term, epoch: value.epoch, leader: value.leader, partitions: value.partitions, nodes: value.nodes.length, leads: value.nodes.find((node) => node.leads)?.id }], () => "only", renderAbout);
    keyed(nodes, value.nodes.map(steady), (node) => node.id, (node, _, before) => renderNode(node, value, before?.querySelector("details")?.open));
    moving.hidden = !value.handovers.length;
    keyed(handovers.body, value.handovers, (one) => `${one.actorType} ${one.from} ${one.to}`, renderHandover);
    const order = value.nodes.map((node) => node.id);
    const shares = value.actorTypes.map((type) => ({
      ...type,
      parts: value.nodes
        .filter((node) => node.partitions[type.name])
        .map((node) => ({ id: node.id, this: node.this, place: order.indexOf(node.id), count: node.partitions[type.name] })),
    }));
    typesCard.hidden = !shares.length;
    keyed(types, shares, (one) => one.name, renderShare);
  });
}

/** What trembles from one look to the next is not worth drawing anew. */
function steady(node) {
  const clock = Math.abs(node.clockDifference ?? 0) >= Math.max(SAME_TIME, node.roundTrip ?? 0) ? node.clockDifference : 0;
  return { ...node, clockDifference: Math.round(clock * 10) / 10, roundTrip: undefined };
}

function renderAbout(value) {
  return facts([
    ["nodes", number(value.nodes)],
    ["table", `epoch ${number(value.epoch)}`],
    ["term", h("span", { title: "Taken at this time: a term is its time in milliseconds, or one more than the last." }, String(value.term))],
    ["placement led by", value.leads ? mono(value.leads.slice(0, 8)) : value.leader || "nobody that is known"],
    ["partitions", `${number(value.partitions)} for each actor type`],
  ]);
}

function renderNode(node, value, open) {
  const active = Object.values(node.activations ?? {}).reduce((sum, one) => sum + one, 0);
  const owned = Object.values(node.partitions).reduce((sum, one) => sum + one, 0);
  const total = value.actorTypes.filter((type) => node.actorTypes.includes(type.name)).length * value.partitions;
  return card(
    "",
    { class: `node${node.answered ? "" : " silent"}` },
    h(
      "div",
      { class: "node-head" },
      h("h2", {}, mono(node.id.slice(0, 8))),
      h("span", { class: "tags" }, node.this ? h("span", { class: "tag this" }, "this node") : null, node.leads ? h("span", { class: "tag" }, "leads placement") : null, node.answered ? null : h("span", { class: "tag bad-tag" }, "no answer")),
    ),
    h("p", { class: "under" }, h("bdi", { class: "strong" }, node.appID), node.namespace === "default" ? "" : ` in ${node.namespace}`, " · ", node.address || "one process", node.http ? [" · ", node.http] : ""),
    h(
      "div",
      { class: "figures" },
      figure(node.answered ? number(node.activitiesRunning) : "–", "activities running"),
      figure(node.answered ? number(node.activitiesQueued) : "–", "queued"),
      figure(node.answered ? number(active) : "–", "actors in memory"),
      figure(number(owned), `of ${number(total)} partitions`),
    ),
    facts([
      ["up", node.answered ? ticker("span", { title: `since ${node.startedAt}` }, () => duration(Math.floor((now() - Date.parse(node.startedAt) * 1000) / 1e6) * 1e6)) : null],
      ["release", node.release],
      ["weight", node.weight === 1 ? null : number(node.weight)],
      ["clock", node.clockDifference ? `${duration(Math.abs(node.clockDifference) * 1e6)} ${node.clockDifference > 0 ? "ahead" : "behind"}` : null],
      ["commits waiting", node.commitsPending ? number(node.commitsPending) : null],
    ]),
    h(
      "details",
      { open },
      h("summary", {}, `${count(node.workflows.length, "workflow")}, ${count(node.activities.length, "activity", "activities")}, ${count(node.actorTypes.length, "actor type")}`),
      names("Workflows", node.workflows),
      names("Activities", node.activities),
      names("Actor types", node.actorTypes.map(typeName)),
    ),
  );
}

function figure(value, what) {
  return h("div", { class: "figure" }, h("span", { class: "value" }, value), h("span", { class: "what" }, what));
}

function names(title, found) {
  return found.length ? h("p", { class: "names" }, h("span", { class: "note" }, `${title}: `), h("bdi", {}, found.join(", "))) : null;
}

function renderHandover(one) {
  return h(
    "tr",
    {},
    h("td", {}, typeName(one.actorType)),
    h("td", { class: "number" }, number(one.partitions)),
    h("td", {}, one.from ? mono(one.from.slice(0, 8)) : "nobody"),
    h("td", {}, mono(one.to.slice(0, 8))),
  );
}

function renderShare(type) {
  return h(
    "div",
    { class: "share" },
    h("div", { class: "share-name" }, h("bdi", { class: "strong" }, typeName(type.name)), h("span", { class: "note" }, ` ${count(type.partitions, "partition")} on ${count(type.nodes, "node")}`)),
    h(
      "div",
      { class: "share-bar" },
      type.parts.map((part) =>
        h(
          "span",
          { class: `part p-${part.place % 8}`, style: { "flex-grow": part.count }, title: `${part.id}: ${part.count} partitions` },
          h("span", { class: "part-text" }, `${part.id.slice(0, 8)}${part.this ? " (this)" : ""} · ${number(part.count)}`),
        ),
      ),
    ),
  );
}
