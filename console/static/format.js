// Times, durations and numbers, for people. Times are microseconds since 1970 UTC.

let ahead = 0;

/** The node's time, in microseconds: the browser's clock may be wrong. */
export function now() {
  return Date.now() * 1000 + ahead;
}

export function setNow(microseconds) {
  ahead = microseconds - Date.now() * 1000;
}

const UNITS = [
  [86400e6, "d"],
  [3600e6, "h"],
  [60e6, "min"],
  [1e6, "s"],
];

/** `840 µs`, `9 ms`, `1.5 s`, `2 min 5 s`, `3 h 20 min`. */
export function duration(microseconds) {
  const span = Math.max(microseconds, 0);
  if (span === 0) return "0 s";
  if (span < 1000) return `${Math.round(span)} µs`;
  if (span < 10_000) return `${(span / 1000).toFixed(1)} ms`;
  if (span < 1e6) return `${Math.round(span / 1000)} ms`;
  // Whole seconds are those of a clock that ticks: no false precision.
  if (span < 10e6) return `${span % 1e6 ? (span / 1e6).toFixed(1) : span / 1e6} s`;
  const index = UNITS.findIndex(([size]) => span >= size);
  const [size, unit] = UNITS[index];
  const whole = Math.floor(span / size);
  const next = UNITS[index + 1];
  const rest = next ? Math.floor((span % size) / next[0]) : 0;
  return rest && (whole < 10 || unit === "h") ? `${whole} ${unit} ${rest} ${next[1]}` : `${whole} ${unit}`;
}

/** `just now`, `3 min ago`, `in 2 h 59 min`: what is to come matters to the minute. */
export function ago(time) {
  const passed = now() - time;
  if (Math.abs(passed) < 1e6) return passed < 0 ? "now" : "just now";
  return passed < 0 ? `in ${duration(seconds(-passed))}` : `${duration(whole(passed))} ago`;
}

/** Whole seconds, for what goes on. */
export function seconds(span) {
  return Math.max(Math.floor(span / 1e6), 0) * 1e6;
}

/** Cut to whole units, so that a text that ticks does not tremble. */
function whole(span) {
  const unit = UNITS.find(([size]) => span >= size)?.[0] ?? 1e6;
  return Math.max(Math.floor(span / unit), 1) * unit;
}

const DAY = new Intl.DateTimeFormat("en-CA", { dateStyle: "short" });
const TIME = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

/** `2026-01-02 03:04:05`, in the browser's time zone. */
export function moment(time) {
  const date = new Date(time / 1000);
  if (Number.isNaN(date.getTime())) return String(time);
  return `${DAY.format(date)} ${TIME.format(date)}`;
}

/** With milliseconds. */
export function exact(time) {
  const date = new Date(time / 1000);
  if (Number.isNaN(date.getTime())) return String(time);
  return `${moment(time)}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

const NUMBER = new Intl.NumberFormat("en");

export function number(value) {
  return NUMBER.format(value);
}

/** `1 event`, `2 events`. */
export function count(value, one, many = `${one}s`) {
  return `${number(value)} ${value === 1 ? one : many}`;
}

export function bytes(value) {
  if (value < 1024) return `${value} B`;
  if (value < 1024 * 1024) return `${(value / 1024).toFixed(1)} KB`;
  return `${(value / 1024 / 1024).toFixed(1)} MB`;
}

/** What people call an actor type: the runtime's own names are long. */
export function typeName(type) {
  const parts = /^dapr\.internal\.(.+)\.([^.]+)\.(workflow|activity)$/.exec(type);
  if (parts) return `${parts[2]} ${parts[3] === "workflow" ? "workflows" : "activities"}`;
  const [namespace, name] = type.split("/");
  return name ? `${name} (${namespace})` : type;
}
