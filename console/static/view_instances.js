// #/instances?status=…&name=…&q=…&since=…&from=…&to=…&after=…

import { fill, h, keyed } from "./dom.js";
import { number } from "./format.js";
import { inline } from "./json.js";
import { chip, finished, instanceLink, span, STATUSES, table, when } from "./parts.js";

const PAGE = 50;
/** How long a filter may change before it is applied. */
const PAUSE = 250;
const SINCE = { "15m": 15, "1h": 60, "24h": 1440, "7d": 10_080, "30d": 43_200 };
const SINCE_TEXT = {
  "": "any time",
  "15m": "last 15 minutes",
  "1h": "last hour",
  "24h": "last 24 hours",
  "7d": "last 7 days",
  "30d": "last 30 days",
  custom: "between…",
};

/** The cursors of the pages before, by filter: from one page the node only knows the way to the next. */
const trails = new Map();

export function show(root, page) {
  if (page.previous) {
    root.list.go(page);
  } else {
    root.list = new List(root);
    root.list.go(page);
  }
}

class List {
  constructor(root) {
    this.root = root;
    this.statuses = h("div", { class: "tabs", role: "group", "aria-label": "Status" });
    this.search = h("input", {
      type: "search",
      placeholder: "Id begins with…   /",
      "aria-label": "Id begins with",
      spellcheck: "false",
      autocomplete: "off",
      oninput: () => this.later(),
      onkeydown: (event) => this.searchKey(event),
    });
    this.names = h("datalist", { id: "workflow-names" });
    this.name = h("input", {
      class: "name",
      placeholder: "Any workflow",
      "aria-label": "Workflow",
      list: "workflow-names",
      spellcheck: "false",
      autocomplete: "off",
      oninput: () => this.later(),
      onkeydown: (event) => event.key === "Enter" && this.apply(),
    });
    this.since = h(
      "select",
      { "aria-label": "Created", onchange: () => this.sinceChanged() },
      Object.entries(SINCE_TEXT).map(([value, text]) => h("option", { value }, text)),
    );
    this.from = h("input", { type: "datetime-local", "aria-label": "Created from", onchange: () => this.apply() });
    this.to = h("input", { type: "datetime-local", "aria-label": "Created before", onchange: () => this.apply() });
    this.between = h("span", { class: "between" }, this.from, "–", this.to);
    this.clear = h("a", { class: "quiet-link", href: "#/instances" }, "Clear");
    const made = table("Workflow instances, newest first", [
      { title: "Status" },
      { title: "Id" },
      { title: "Workflow" },
      { title: "Custom status or reason", class: "wide" },
      { title: "Created", class: "time" },
      { title: "Updated", class: "time narrow-no" },
      { title: "Took", class: "time" },
    ]);
    this.body = made.body;
    this.table = made.element;
    this.table.hidden = true;
    this.empty = h("p", { class: "empty" }, "…");
    this.newer = h("a", { class: "button", "data-key": "newer", rel: "prev" }, "← Newer");
    this.older = h("a", { class: "button", "data-key": "older", rel: "next" }, "Older →");
    this.place = h("span", {});
    this.pager = h("div", { class: "pager" }, this.newer, this.place, this.older);
    fill(
      root,
      h("h1", { class: "hidden" }, "Instances"),
      this.statuses,
      h(
        "form",
        { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
        this.search,
        this.name,
        this.names,
        this.since,
        this.between,
        this.clear,
      ),
      this.table,
      this.empty,
      this.pager,
    );
  }

  go(page) {
    page.title("Instances");
    const query = page.route.query;
    this.page = page;
    this.query = {
      status: query.get("status") ?? "",
      name: query.get("name") ?? "",
      q: query.get("q") ?? "",
      since: query.get("since") ?? "",
      from: query.get("from") ?? "",
      to: query.get("to") ?? "",
      after: query.get("after") ?? "",
    };
    this.showFilters();
    page.watch(
      {
        view: "instances",
        status: this.query.status,
        name: this.query.name,
        q: this.query.q,
        from: this.fromTime(),
        to: this.query.to,
        cursor: this.query.after,
        limit: PAGE,
      },
      (value) => this.update(value),
    );
    page.cleanup(() => clearTimeout(this.timer));
  }

  /** On whole minutes, so that all who look at "the last hour" look at the same. */
  fromTime() {
    const minutes = SINCE[this.query.since];
    return minutes ? (Math.floor(Date.now() / 60_000) - minutes) * 60_000 : this.query.from;
  }

  showFilters() {
    const { status, name, q, since, from, to } = this.query;
    // Not what somebody is typing.
    if (this.search.value.trim() !== q) this.search.value = q;
    if (this.name.value.trim() !== name) this.name.value = name;
    this.since.value = from || to ? "custom" : since in SINCE ? since : "";
    this.between.hidden = this.since.value !== "custom";
    this.from.value = local(from);
    this.to.value = local(to);
    this.clear.hidden = !(status || name || q || since || from || to);
    this.showStatuses();
  }

  showStatuses() {
    const chosen = new Set(this.query.status.split(",").filter(Boolean));
    const tabs = ["", ...STATUSES].map((status) => ({
      status,
      on: status ? chosen.has(status) : !chosen.size,
      count: this.counts?.[status],
      href: this.address({ ...this.query, status, after: "" }),
    }));
    keyed(
      this.statuses,
      tabs,
      (tab) => tab.status,
      (tab) =>
        h(
          "a",
          { class: `tab ${tab.status ? `s-${tab.status}` : ""}`, href: tab.href, "aria-current": tab.on ? "true" : null },
          tab.status || "all",
          tab.count ? h("span", { class: "count" }, number(tab.count.count), tab.count.more ? "+" : "") : null,
        ),
    );
  }

  address(query) {
    const found = new URLSearchParams();
    for (const [name, value] of Object.entries(query)) if (value) found.set(name, value);
    const text = found.toString();
    return `#/instances${text ? `?${text}` : ""}`;
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.apply(), PAUSE);
  }

  searchKey(event) {
    if (event.key === "Enter") {
      this.apply();
      if (this.rows?.length === 1) location.hash = `#/instances/${encodeURIComponent(this.rows[0].id)}`;
    } else if (event.key === "Escape") {
      this.search.blur();
    }
  }

  sinceChanged() {
    this.between.hidden = this.since.value !== "custom";
    if (this.since.value === "custom") this.from.focus();
    else this.apply();
  }

  apply() {
    clearTimeout(this.timer);
    const custom = this.since.value === "custom";
    const query = {
      ...this.query,
      name: this.name.value.trim(),
      q: this.search.value.trim(),
      since: custom ? "" : this.since.value,
      from: custom ? milliseconds(this.from.value) : "",
      to: custom ? milliseconds(this.to.value) : "",
      after: "",
    };
    const address = this.address(query);
    // Each letter of a search is no place to go back to.
    if (address !== this.address(this.query)) location.replace(address);
  }

  update(value) {
    this.counts = value.counts;
    this.rows = value.items;
    this.showStatuses();
    keyed(this.names, value.names, (name) => name, (name) => h("option", { value: name }));
    keyed(this.body, value.items, (row) => row.id, renderRow);
    this.table.hidden = !value.items.length;
    this.showEmpty(value);
    this.showPager(value);
  }

  showEmpty(value) {
    this.empty.hidden = value.items.length > 0;
    if (value.items.length) return;
    const filtered = !this.clear.hidden || this.query.after;
    fill(
      this.empty,
      filtered ? "No instance matches." : ["No workflow has been started yet. ", h("br"), h("code", {}, "perdure workflow start NAME")],
    );
  }

  showPager(value) {
    const filter = this.address({ ...this.query, after: "" });
    const trail = trails.get(filter) ?? [];
    const at = this.query.after ? trail.indexOf(this.query.after) : -1;
    // A page that was linked to: the way back is to the newest.
    const before = at > 0 ? trail[at - 1] : "";
    link(this.newer, this.query.after ? this.address({ ...this.query, after: before }) : "");
    this.newer.textContent = this.query.after && at < 0 ? "← Newest" : "← Newer";
    link(this.older, value.cursor ? this.address({ ...this.query, after: value.cursor }) : "");
    if (value.cursor && (at >= 0 || !this.query.after)) {
      trail[at + 1] = value.cursor;
      trails.set(filter, trail);
    }
    this.place.textContent = at >= 0 ? `page ${at + 2}` : this.query.after ? "" : "newest first";
    this.pager.hidden = !this.query.after && !value.cursor;
  }
}

function link(element, href) {
  if (href) element.setAttribute("href", href);
  else element.removeAttribute("href");
  element.setAttribute("aria-disabled", String(!href));
}

function renderRow(row) {
  const ended = finished(row.status) ? (row.completed ?? row.updated) : null;
  const link = instanceLink(row.id, { class: "row" });
  return h(
    "tr",
    {
      class: "clickable",
      onclick: (event) => {
        if (!event.target.closest("a") && !getSelection().toString()) link.click();
      },
    },
    h("td", {}, chip(row.status)),
    h("td", { class: "id" }, link),
    h("td", { class: "name" }, h("bdi", {}, row.name), row.parent ? h("span", { class: "tag", title: `child of ${row.parent}` }, "child") : null),
    h("td", { class: row.reason ? "wide why" : "wide mono", title: row.reason || row.custom }, h("bdi", {}, inline(row.reason || row.custom, 120))),
    h("td", { class: "time" }, when(row.created)),
    h("td", { class: "time narrow-no" }, when(row.updated)),
    h("td", { class: "time" }, row.status === "pending" && row.scheduled ? ["starts ", when(row.scheduled)] : span(row.started ?? row.created, ended)),
  );
}

/** Milliseconds since 1970 as the value of a datetime-local input. */
function local(milliseconds) {
  const date = new Date(Number(milliseconds));
  if (!milliseconds || Number.isNaN(date.getTime())) return "";
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

function milliseconds(text) {
  const time = new Date(text).getTime();
  return Number.isNaN(time) ? "" : String(time);
}
