// Relative times, in the same words as `relative` in web/pages.py, kept current by the server's clock.

const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

const serverTime = document.querySelector('meta[name="server-time"]');
// What to add to this computer's clock; half a second of download is not worth a correction.
const skew = serverTime ? Date.parse(serverTime.content) - Date.now() : 0;
const offset = Math.abs(skew) > 2000 ? skew : 0;

export function relative(at) {
  const seconds = (Date.now() + offset - at) / 1000;
  const distance = Math.abs(seconds);
  if (distance < 1) return "now";
  const [unit, size] = UNITS.find(([, size]) => distance >= size);
  const words = `${Math.floor(distance / size + (seconds > 0 ? 0 : 0.5))} ${unit}`;
  return seconds > 0 ? `${words} ago` : `in ${words}`;
}

export function tick(root = document) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const text = relative(Date.parse(element.dateTime));
    if (element.textContent !== text) element.textContent = text;
  }
}

export function setTime(element, at) {
  element.dateTime = new Date(at).toISOString();
  element.title = element.dateTime.replace("T", " ").replace(/\.\d+Z$/, " UTC");
  element.textContent = relative(at);
}

setInterval(tick, 1000);
