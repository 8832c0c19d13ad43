// Keeps an open page current. Without it the page is the same, until it is loaded again.
"use strict";
(() => {
  const PATIENCE_MS = 20000;
  const lost = document.querySelector(".lost");
  let heard = Date.now();
  let busy = false;

  function opened(root) {
    return [...root.querySelectorAll("details[id][open]")].map((each) => each.id);
  }

  async function renew() {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (!answer.ok && answer.status !== 404) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const before = document.getElementById("status");
    const after = page.getElementById("status");
    if (!after) return;
    for (const id of opened(before)) {
      const same = after.querySelector("#" + CSS.escape(id));
      if (same) same.open = true;
    }
    const link = before.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    before.replaceWith(after);
    if (link) after.querySelector(`[href="${CSS.escape(link)}"]`)?.focus({ preventScroll: true });
    document.title = page.title;
    document.querySelector(".when").replaceWith(page.querySelector(".when"));
  }

  const source = new EventSource("/status/events");
  source.addEventListener("open", () => { heard = Date.now(); });
  source.addEventListener("status", async (event) => {
    if (busy || event.data === document.getElementById("status").dataset.digest) return;
    busy = true;
    try { await renew(); } catch (error) { /* it does not answer: said below */ } finally { busy = false; }
  });
  setInterval(() => { lost.hidden = Date.now() - heard < PATIENCE_MS; }, 1000);
})();
