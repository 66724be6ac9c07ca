// The page of `tallformer serve`: submits files, follows jobs, links results. Everything from outside goes in as text.
const byId = (id) => document.getElementById(id);
const rows = new Map(); // job id -> { row, state }
let oldest = null;

async function call(path, options = {}) {
  const answer = await fetch(path, options);
  if (!answer.ok) {
    let detail = answer.statusText;
    try { detail = (await answer.json()).detail; } catch { /* not ours */ }
    throw new Error(typeof detail === "string" ? detail : JSON.stringify(detail));
  }
  return answer.status === 204 ? null : answer.json();
}

function say(text, isBad = false) {
  byId("message").textContent = text;
  byId("message").classList.toggle("bad", isBad);
}

function element(name, { text, className, ...rest } = {}, ...children) {
  const made = Object.assign(document.createElement(name), rest);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function length(seconds) {
  if (seconds === null) return "";
  const whole = Math.round(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return (parts[0] ? parts : parts.slice(1)).map((part, at) => (at ? String(part).padStart(2, "0") : part)).join(":");
}

const isOver = (job) => ["done", "failed", "cancelled"].includes(job.state);

function show(job, { atEnd = false } = {}) {
  const known = rows.get(job.id);
  const name = element("td", { className: "name", text: job.name });
  const notes = [job.error?.replace(`${job.name}: `, ""), ...job.remarks].filter(Boolean);
  if (notes.length) name.append(element("small", { text: notes.join("; ") }));
  const state = element("td", { className: "state", text: job.state });
  if (job.state === "running" && job.duration_s) {
    const bar = element("progress", { max: job.duration_s, value: job.position_s });
    bar.setAttribute("aria-label", `${job.name}: ${Math.round((100 * job.position_s) / job.duration_s)} %`);
    state.replaceChildren(bar);
  }
  const links = element("td");
  if (job.state === "done") {
    links.append(element("a", { text: "Open", href: `${job.url}/result?format=html` }));
    links.append(element("a", { text: "JSON", href: `${job.url}/result`, download: `${job.name}.json` }));
    links.append(element("a", { text: "SRT", href: `${job.url}/result?format=srt`, download: `${job.name}.srt` }));
  }
  const act = element("button", { type: "button", text: isOver(job) ? "Delete" : "Cancel" });
  act.setAttribute("aria-label", `${act.textContent} ${job.name}`);
  act.onclick = () => end(job);
  const row = element("tr", { className: job.state }, name, state, element("td", { text: length(job.duration_s) }), links, element("td", {}, act));
  if (known) {
    const hadFocus = known.row.contains(document.activeElement);
    known.row.replaceWith(row);
    if (hadFocus) row.querySelector("button").focus();
  } else if (atEnd) byId("jobs").append(row);
  else byId("jobs").prepend(row);
  rows.set(job.id, { row, job });
  byId("empty").hidden = true;
}

async function end(job) {
  try {
    if (isOver(job)) {
      await call(job.url, { method: "DELETE" });
      rows.get(job.id).row.remove();
      rows.delete(job.id);
      byId("empty").hidden = rows.size > 0;
    } else show(await call(`${job.url}/cancel`, { method: "POST" }));
  } catch (error) { say(`${job.name}: ${error.message}`, true); }
}

async function submit(files) {
  for (const file of files) {
    say(`Sending ${file.name} …`);
    const query = new URLSearchParams({ name: file.name });
    if (byId("threshold").value) query.set("threshold", byId("threshold").value);
    for (const label of byId("classes").value.split(",")) if (label.trim()) query.append("classes", label.trim());
    try {
      show(await call(`v1/uploads?${query}`, { method: "POST", body: file, headers: { "Idempotency-Key": crypto.randomUUID?.() ?? String(Math.random()) } }));
      say(`${file.name} is in the queue.`);
    } catch (error) { say(`${file.name}: ${error.message}`, true); }
  }
}

async function older() {
  const jobs = await call(`v1/jobs?limit=50${oldest ? `&before=${encodeURIComponent(oldest)}` : ""}`);
  for (const job of jobs) show(job, { atEnd: true });
  if (jobs.length) oldest = jobs[jobs.length - 1].id;
  byId("more").hidden = jobs.length < 50;
}

async function refresh() {
  try {
    const waiting = [...rows.values()].some(({ job }) => !isOver(job));
    for (const job of (await call("v1/jobs?limit=50")).reverse()) {
      const known = rows.get(job.id);
      if (!known || JSON.stringify(known.job) !== JSON.stringify(job)) show(job);
    }
    setTimeout(refresh, waiting ? 1000 : 5000);
  } catch (error) {
    say(`The server does not answer: ${error.message}`, true);
    setTimeout(refresh, 5000);
  }
}

const drop = byId("drop");
byId("files").onchange = async ({ target }) => { await submit([...target.files]); target.value = ""; };
drop.onsubmit = (event) => event.preventDefault();
drop.ondragover = (event) => { event.preventDefault(); drop.classList.add("over"); };
drop.ondragleave = () => drop.classList.remove("over");
drop.ondrop = (event) => { event.preventDefault(); drop.classList.remove("over"); submit([...event.dataTransfer.files]); };
byId("more").onclick = older;

try {
  const [model] = await call("v1/models");
  byId("model").textContent = `Model ${model.name}, ${model.classes.length} classes${model.intended_use ? `. ${model.intended_use}` : ""}`;
  byId("known").append(...model.classes.map((value) => element("option", { value })));
  await older();
} catch (error) { say(error.message, true); }
refresh();
