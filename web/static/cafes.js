// The cafés' page: progress is shown as it is told, everything else is re-read when a job begins or ends.

import { fetchPage, fillMeter, follow, replaceRegions, throttled } from "./live.js";
import { tick } from "./time.js";

const refresh = throttled(async () => {
  const fresh = await fetchPage(location.href);
  if (!fresh) return false;
  tick(fresh);
  for (const row of document.querySelectorAll("tr[data-job]")) {
    const theirs = fresh.getElementById(row.id);
    if (!theirs) continue;
    row.dataset.job = theirs.dataset.job;
    row.dataset.version = theirs.dataset.version;
  }
  replaceRegions(fresh);
  return true;
}, 1_000);

const statuses = new Map();

follow(
  "/events?type=process-cafe&type=update-cafe-stats",
  (event) => {
    const row = document.querySelector(`tr[data-job="${CSS.escape(event.id)}"]`);
    if (row && event.version > Number(row.dataset.version)) {
      row.dataset.version = event.version;
      const chip = row.querySelector(".c-detail .chip");
      const meter = row.querySelector(".meter");
      if (chip) chip.dataset.status = chip.textContent = event.status;
      if (meter) fillMeter(meter, event);
    }
    if (statuses.get(event.id) === event.status) return;
    statuses.set(event.id, event.status);
    if (statuses.size > 5_000) statuses.delete(statuses.keys().next().value);
    refresh();
  },
  refresh,
);
