// One job: what an event carries is shown at once, the rest (errors, log, result, buttons) is re-read.

import { fetchPage, fillMeter, follow, replaceRegions, throttled } from "./live.js";
import { tick } from "./time.js";

const job = document.getElementById("job");
const url = `/board/jobs/${encodeURIComponent(job.dataset.id)}`;

// After a refused cancel or retry this page stands at that address; a reload must not ask again.
if (location.pathname !== url) history.replaceState(null, "", url);

const refresh = throttled(async () => {
  const fresh = await fetchPage(url);
  const theirs = fresh?.getElementById("job");
  if (!theirs) return false;
  if (Number(theirs.dataset.version) >= Number(job.dataset.version)) {
    job.dataset.version = theirs.dataset.version;
    tick(fresh);
    replaceRegions(fresh);
  }
  return true;
}, 1_000);

follow(
  `/jobs/${encodeURIComponent(job.dataset.id)}/events`,
  (event) => {
    if (event.id !== job.dataset.id || event.version <= Number(job.dataset.version)) return;
    job.dataset.version = event.version;
    const chip = document.querySelector("#status .chip");
    if (chip.dataset.status !== event.status) {
      chip.dataset.status = chip.textContent = event.status;
      document.querySelector("#status .note")?.remove();
    }
    fillMeter(document.querySelector("#now .meter"), event);
    refresh();
  },
  refresh,
);
