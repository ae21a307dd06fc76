// The board: rows move as events arrive; counts, order and what events do not carry are re-read from the server.

import { fetchPage, fillMeter, follow, replaceRegions, throttled } from "./live.js";
import { setTime, tick } from "./time.js";

const board = document.getElementById("board");
const table = board.querySelector("table");
const body = table.tBodies[0];
const blank = document.getElementById("row").content.firstElementChild;
const { status: onlyStatus, type: onlyType } = board.dataset;
const limit = Number(board.dataset.limit);
const first = board.dataset.first === "true";

let changes = 0; // counts what events did here, so that an older answer of the server does not undo it

const find = (id) => body.querySelector(`tr[data-id="${CSS.escape(id)}"]`);
const version = (row) => Number(row.dataset.version);

function showEmptiness() {
  const empty = body.rows.length === 0;
  table.hidden = empty;
  board.querySelector(".empty").hidden = !empty;
}

function highlight(row) {
  row.classList.remove("changed");
  void row.offsetWidth; // restarts the animation
  row.classList.add("changed");
}

// When a UUIDv7 was made; for any other id the event's own time is the best we have.
function createdAt({ id, at }) {
  return id[14] === "7" ? parseInt(id.slice(0, 8) + id.slice(9, 13), 16) : Date.parse(at);
}

function fill(row, event) {
  const chip = row.querySelector(".chip");
  if (chip.dataset.status !== event.status || !row.isConnected) {
    chip.dataset.status = chip.textContent = event.status;
    row.querySelector(".note")?.remove();
    highlight(row);
  }
  row.querySelector(".tries").textContent = event.attempts;
  const error = row.querySelector(".error");
  error.textContent = event.error ?? "";
  error.hidden = !event.error;
  fillMeter(row.querySelector(".meter"), event);
  row.dataset.version = event.version;
  row.heard = ++changes;
}

// Newest first, as the server sorts: by id. Past the end of this page there is no place for it.
function place(row) {
  const next = [...body.rows].find((other) => other.dataset.id < row.dataset.id);
  if (!next && body.rows.length >= limit) return;
  body.insertBefore(row, next ?? null);
  if (body.rows.length > limit) body.lastElementChild.remove();
}

function newRow(event) {
  const row = document.importNode(blank, true);
  row.dataset.id = event.id;
  row.querySelector(".c-job a").href = `/board/jobs/${encodeURIComponent(event.id)}`;
  row.querySelector(".type").textContent = event.type;
  row.querySelector(".id").textContent = event.id.slice(-8);
  row.querySelector(".of").textContent = "";
  const time = row.querySelector(".c-age").appendChild(document.createElement("time"));
  setTime(time, createdAt(event));
  fill(row, event);
  place(row);
}

function apply(event) {
  const row = find(event.id);
  if (row) {
    if (event.version > version(row)) fill(row, event);
  } else if (first && (!onlyStatus || onlyStatus === event.status) && (!onlyType || onlyType === event.type)) {
    newRow(event);
  }
}

const refresh = throttled(async () => {
  const asked = changes;
  const fresh = await fetchPage(location.href);
  if (!fresh) return false;
  tick(fresh);
  replaceRegions(fresh);
  const listed = new Set();
  for (const theirs of fresh.querySelectorAll("#board tbody tr")) {
    listed.add(theirs.dataset.id);
    const ours = find(theirs.dataset.id);
    if (!ours) {
      place(document.importNode(theirs, true));
    } else if (version(theirs) >= version(ours)) {
      const moved = ours.querySelector(".chip").dataset.status !== theirs.querySelector(".chip").dataset.status;
      ours.dataset.version = theirs.dataset.version;
      if (ours.innerHTML === theirs.innerHTML) continue;
      const focused = ours.contains(document.activeElement);
      ours.replaceChildren(...document.importNode(theirs, true).childNodes);
      if (moved) highlight(ours);
      if (focused) ours.querySelector("a").focus();
    }
  }
  // Gone from this page, unless it came while the server was answering.
  for (const row of [...body.rows]) {
    if (!listed.has(row.dataset.id) && !(row.heard > asked)) row.remove();
  }
  showEmptiness();
  return true;
}, 1_500);

// Events come in bursts: draw at most 20 times a second, each job once.
const waiting = new Map();
let timer = null;

function draw() {
  timer = null;
  const events = [...waiting.values()];
  waiting.clear();
  const moved = events.filter(isNews).length > 0;
  for (const event of events) apply(event);
  showEmptiness();
  if (moved) refresh(); // counts, and what events do not carry; progress alone is no reason
}

// Statuses of jobs that are not on this page, as far as events told; the oldest are forgotten.
const statuses = new Map();

function isNews(event) {
  const before = statuses.get(event.id) ?? find(event.id)?.querySelector(".chip").dataset.status;
  statuses.delete(event.id);
  statuses.set(event.id, event.status);
  if (statuses.size > 5_000) statuses.delete(statuses.keys().next().value);
  return before !== event.status;
}

follow(
  onlyType ? `/events?type=${encodeURIComponent(onlyType)}` : "/events",
  (event) => {
    if (event.version > (waiting.get(event.id)?.version ?? 0)) waiting.set(event.id, event);
    timer ??= setTimeout(draw, 50);
  },
  refresh,
);
