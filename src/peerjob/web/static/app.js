// Live parts, keys, the chart and relative times. Every page works without this script.
"use strict";
(() => {
  const $ = (selector, from = document) => from.querySelector(selector);
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];

  // -- relative times -------------------------------------------------------------------------------------------------
  const span = (seconds) => {
    if (seconds < 120) return `${Math.floor(seconds)}s`;
    if (seconds < 7200) return `${Math.floor(seconds / 60)}m`;
    if (seconds < 172800) {
      return `${Math.floor(seconds / 3600)}h${String(Math.floor((seconds % 3600) / 60)).padStart(2, "0")}m`;
    }
    return `${Math.floor(seconds / 86400)}d`;
  };
  // the clock of the reader can be wrong; the time that the page or this script takes to arrive is no error
  const [loading] = performance.getEntriesByType("navigation");
  const ahead = (mark) => Date.now() - (performance.now() - (loading?.[mark] ?? 0)) - Date.parse(document.body.dataset.now);
  const [least, most] = [ahead("requestStart"), ahead("responseStart")];
  const error = least > 5000 ? least : most < -5000 ? most : 0;
  const ages = () => {
    for (const one of $$("time[datetime]")) {
      const at = Date.parse(one.dateTime);
      if (Number.isNaN(at) || one.dataset.fixed !== undefined) continue;
      const passed = (Date.now() - error - at) / 1000;
      const planned = one.dataset.planned !== undefined;
      const text = passed < (planned ? 1 : 0) ? `in ${span(Math.max(0, -passed))}` : `${span(passed)} ${planned ? "late" : "ago"}`;
      if (one.textContent !== text) one.textContent = text;
    }
  };
  setInterval(ages, 5000);

  // -- the chart of the last hour -------------------------------------------------------------------------------------
  let plot = null;
  const chart = () => {
    const box = $("#chart"), source = $("#activity");
    if (!box || !source || typeof uPlot === "undefined") return;
    const data = JSON.parse(source.textContent || "[]");
    if (data.length < 3 || !data[0].length) {
      box.textContent = "No samples yet: nodes add one every ten seconds.";
      return;
    }
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    if (plot) {
      plot.setData(data);
      return;
    }
    box.textContent = "";
    const axis = { stroke: color("--muted"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line") } };
    plot = new uPlot({
      width: box.clientWidth, height: 220,
      // UTC, as the dates of all pages
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1e3), "Etc/UTC"),
      series: [
        { label: "UTC", value: "{YYYY}-{MM}-{DD} {HH}:{mm}:{ss}" },
        { label: "completed in 10 s", stroke: color("--good"), fill: color("--good-bg"), width: 1.5 },
        { label: "failed in 10 s", stroke: color("--bad"), width: 1.5 },
      ],
      axes: [{ ...axis, values: "{HH}:{mm}" }, { ...axis, size: 60 }],
      scales: { y: { range: (self, low, high) => [0, Math.max(1, high * 1.1)] } },
    }, data, box);
    new ResizeObserver(() => plot.setSize({ width: box.clientWidth, height: 220 })).observe(box);
  };

  // -- live parts -----------------------------------------------------------------------------------------------------
  let source = null, renewed = false, place = null;
  const put = (parts) => {
    for (const [id, html] of Object.entries(parts)) {
      const element = document.getElementById(id);
      if (!element) continue;
      // the lines that follow replace the present ones, which stay if the connection ends before
      if (id === "log" && !html) {
        renewed = true;
        continue;
      }
      // the answer to a sent form comes; a new form in its place would act a second time
      if ($("form[data-sent]", element)) continue;
      const checked = new Set($$("input:checked", element).map((one) => one.value));
      const at = $("tr.at a", element)?.href;
      const unfolded = $$("details", element).map((one) => one.open);
      element.innerHTML = html;
      $$("details", element).forEach((one, number) => { one.open = unfolded[number] ?? one.open; });
      for (const one of $$("input[type=checkbox]", element)) one.checked = checked.has(one.value);
      if (at) $$("tr[data-row]", element).find((row) => $("a", row)?.href === at)?.classList.add("at");
      if (window.htmx) htmx.process(element);
    }
    ages();
    if ("activity" in parts) chart();
  };
  const lines = (html) => {
    const list = $("#log");
    if (!list) return;
    const end = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    if (renewed) {
      place = end ? null : list.scrollTop;
      list.textContent = "";
      renewed = false;
    }
    list.insertAdjacentHTML("beforeend", html);
    $("#no-lines")?.remove();
    while (list.children.length > 1000) list.firstElementChild.remove();
    sift();
    if (place === null) {
      if (end) list.scrollTop = list.scrollHeight;
      return;
    }
    // the reader stays at the same lines, as soon as they are there again
    list.scrollTop = place;
    if (list.scrollTop >= place - 1) place = null;
  };
  const open = () => {
    const url = document.body.dataset.live;
    if (!url || source || document.hidden) return;
    clearTimeout(again);
    source = new EventSource(url);
    source.addEventListener("parts", (event) => put(JSON.parse(event.data)));
    source.addEventListener("lines", (event) => lines(JSON.parse(event.data)));
    source.addEventListener("reload", () => location.reload());
    source.addEventListener("end", close);
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) {
        lost ??= setTimeout(() => put({ banner: '<p class="banner" role="alert">The server does not answer. This page shows the last state.</p>' }), 4000);
        return;
      }
      close();
      put({ banner: '<p class="banner" role="alert">This page does not update by itself now: too many live views are open, the server is away, or you are signed out. Reload it to see the present state.</p>' });
      again = setTimeout(open, 15000);
    };
    source.onopen = answered;
  };
  let lost = null, again = null;
  const answered = () => {
    clearTimeout(lost);
    lost = null;
  };
  const close = () => {
    answered();
    source?.close();
    source = null;
  };
  // a browser opens at most six connections to a server, so a page that is not seen gives its own back
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);

  // -- log lines ------------------------------------------------------------------------------------------------------
  const sift = () => {
    const form = $("#log-filter");
    if (!form) return;
    const level = form.elements.level.value.toLowerCase(), text = form.elements.text.value.toLowerCase();
    for (const line of $$("#log li")) {
      line.hidden = Boolean((level && line.dataset.level !== level) || (text && !line.textContent.toLowerCase().includes(text)));
    }
  };
  document.addEventListener("input", (event) => { if (event.target.closest("#log-filter")) sift(); });
  document.addEventListener("submit", (event) => { if (event.target.id === "log-filter") { event.preventDefault(); sift(); } });

  // -- a form acts once, however often its button is pressed ----------------------------------------------------------
  document.addEventListener("submit", (event) => {
    const sent = event.target.dataset;
    if (event.target.method !== "post") return;
    // later, the reader has stopped waiting and asks again: the server answers what the form did
    if (event.timeStamp - sent.sent < 3000) event.preventDefault();
    else sent.sent = event.timeStamp;
  });
  addEventListener("pageshow", () => { for (const form of $$("form[data-sent]")) delete form.dataset.sent; });

  // -- selected rows --------------------------------------------------------------------------------------------------
  document.addEventListener("change", (event) => {
    if (event.target.id !== "all-rows") return;
    for (const one of $$('input[name="id"]')) one.checked = event.target.checked;
  });

  // -- an action in steps: its next step starts by itself, unless it was stopped --------------------------------------
  let stopped = false;
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-stop]")) return;
    stopped = true;
    $("#progress-text")?.append(" Stopping after this step.");
  });
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (stopped && event.target.closest("[data-steps]")) {
      event.preventDefault();
      const form = event.target.closest("[data-steps]");
      form.removeAttribute("hx-trigger");
      $("[data-stop]", form)?.remove();
      const text = $("#progress-text");
      if (text) text.append(" Stopped.");
      stopped = false;
    }
  });
  const failed = (reason) => {
    stopped = false;
    const line = document.createElement("p");
    line.className = "banner";
    line.setAttribute("role", "alert");
    line.textContent = `${reason} Continue asks again; a step that was done is not done twice.`;
    put({ banner: line.outerHTML });
  };
  document.addEventListener("htmx:sendError", () => failed("The step got no answer."));
  document.addEventListener("htmx:responseError", (event) => {
    const page = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html");
    failed(`The step failed: ${$(".problem", page)?.textContent ?? `status ${event.detail.xhr.status}.`}`);
  });
  document.addEventListener("htmx:afterSwap", () => put({ banner: "" }));

  // -- keys -----------------------------------------------------------------------------------------------------------
  const move = (step) => {
    const rows = $$("tr[data-row]");
    if (!rows.length) return;
    const now = rows.findIndex((row) => row.classList.contains("at"));
    const next = rows[Math.min(rows.length - 1, Math.max(0, now < 0 ? 0 : now + step))];
    for (const row of rows) row.classList.toggle("at", row === next);
    next.scrollIntoView({ block: "nearest" });
    $("a", next)?.focus({ preventScroll: true });
  };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select, [contenteditable]");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && typing) typing.blur();
    if (typing) return;
    if (event.key === "/") { event.preventDefault(); $("#search")?.focus(); }
    else if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else if (event.key === "?") $("#keys")?.showModal();
    else if (event.key === "Enter" && !event.target.closest("a, button, summary")) $("tr.at a")?.click();
  });

  chart();
  sift();
  ages();
})();
