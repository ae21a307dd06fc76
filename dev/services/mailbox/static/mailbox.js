// Shows the list anew when mail has come; without this the reader reloads the page.

const shown = document.getElementById("inbox").dataset.newest;

async function look() {
  if (document.hidden) return;
  try {
    const { newest } = await (await fetch("/api/newest")).json();
    if ((newest ?? "") !== shown) location.reload();
  } catch {
    // The mailbox is being restarted.
  }
}

setInterval(look, 1500);
