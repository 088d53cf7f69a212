// Looks at projects: a list, or one of them, both moved by the server's events.

const element = (id) => document.getElementById(id);
const token = () => sessionStorage.getItem("token");

/** Asks the server; whoever may not look is asked for a token. */
async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (token()) headers.authorization = `Bearer ${token()}`;
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401 || answer.status === 403) {
    element("access").hidden = false;
    throw new Error("a token is needed");
  }
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Error(problem.detail ?? `the server answers ${answer.status}`);
  }
  return answer;
}

/** Follows a stream of events until it is stopped, and comes again after interruptions. */
async function follow(path, on, signal) {
  let last = null;
  while (!signal.aborted) {
    try {
      const headers = { accept: "text/event-stream" };
      if (last !== null) headers["last-event-id"] = last;
      const answer = await ask(path, { headers, signal });
      element("status").textContent = "live";
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        text += value;
        const blocks = text.split("\n\n");
        text = blocks.pop();
        for (const block of blocks) {
          const event = { type: "message", data: "" };
          for (const line of block.split("\n")) {
            const at = line.indexOf(":");
            const [field, rest] = [line.slice(0, at), line.slice(at + 1).trimStart()];
            if (field === "id") last = rest;
            if (field === "event") event.type = rest;
            if (field === "data") event.data += rest;
          }
          if (event.data) on(event.type, JSON.parse(event.data));
          if (event.type === "reset") last = null;
          if (event.type === "done") {
            element("status").textContent = "ended";
            return;
          }
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      element("status").textContent = error.message;
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

function cell(row, text, className) {
  const cell = row.insertCell();
  if (className) cell.className = className;
  cell.textContent = text ?? "";
  return cell;
}

function stateCell(row, state) {
  const label = document.createElement("span");
  label.className = `state ${state}`;
  label.textContent = state.replace("_", " ");
  cell(row, "").append(label);
}

function time(text) {
  return text ? new Date(text).toLocaleString() : "";
}

function took(step) {
  if (!step.started_at || !step.finished_at) return "";
  const seconds = (new Date(step.finished_at) - new Date(step.started_at)) / 1000;
  return seconds < 60 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds / 60)} min`;
}

function showList(signal) {
  const rows = new Map();
  element("list").hidden = false;
  element("projects").replaceChildren();
  element("empty").hidden = false;
  follow("api/v1/events", (type, project) => {
    if (type === "reset") {
      rows.clear();
      element("projects").replaceChildren();
      return;
    }
    element("empty").hidden = true;
    const row = rows.get(project.id) ?? element("projects").insertRow(0);
    rows.set(project.id, row);
    row.replaceChildren();
    stateCell(row, project.state);
    const link = document.createElement("a");
    link.href = `#${project.id}`;
    link.textContent = project.name;
    cell(row, "").append(link);
    const counts = Object.entries(project.counts);
    cell(row, counts.map(([state, count]) => `${count} ${state.replace("_", " ")}`).join(", "));
    cell(row, time(project.created_at));
    cell(row, project.id.slice(-8), "text");
  }, signal);
}

function showProject(id, signal) {
  const base = `api/v1/projects/${encodeURIComponent(id)}`;
  element("project").hidden = false;
  element("steps").replaceChildren();
  let wanted = false;
  let busy = false;
  let picture = null;
  const draw = async () => {
    wanted = true;
    if (busy) return;
    busy = true;
    while (wanted && !signal.aborted) {
      wanted = false;
      try {
        const project = await (await ask(`${base}?include=steps`, { signal })).json();
        const svg = await (await ask(`${base}/graph.svg`, { signal })).blob();
        if (signal.aborted) break;
        element("state").className = `state ${project.state}`;
        element("state").textContent = project.state;
        element("name").textContent = project.name;
        element("about").textContent =
          `${project.id} · submitted ${time(project.created_at)}` +
          (project.finished_at ? ` · ended ${time(project.finished_at)}` : "") +
          (project.reason ? ` · ${project.reason}` : "");
        const old = picture;
        picture = URL.createObjectURL(svg);
        element("graph").alt = `The graph of ${project.name}`;
        element("graph").src = picture;
        if (old) URL.revokeObjectURL(old);
        const rows = element("steps");
        rows.replaceChildren();
        for (const step of project.steps.slice(0, 1000)) {
          const row = rows.insertRow();
          stateCell(row, step.state);
          cell(row, step.name);
          cell(row, step.kind);
          cell(row, step.attempts);
          cell(row, took(step));
          const said = step.error ? `${step.error.code}: ${step.error.message}`
            : step.waiting ? `waits for ${step.waiting.reason} until ${time(step.waiting.until)}`
            : step.progress ? `${Math.round(step.progress.fraction * 100)} % ${step.progress.message}`
            : step.output === null ? "" : JSON.stringify(step.output);
          cell(row, said.length > 300 ? `${said.slice(0, 300)}…` : said, "text");
        }
      } catch (error) {
        if (!signal.aborted) element("status").textContent = error.message;
      }
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
    busy = false;
  };
  draw();
  follow(`${base}/events`, draw, signal);
}

let shown = new AbortController();

function show() {
  shown.abort();
  shown = new AbortController();
  element("list").hidden = true;
  element("project").hidden = true;
  const id = decodeURIComponent(location.hash.slice(1));
  if (id) showProject(id, shown.signal);
  else showList(shown.signal);
}

element("access").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", element("token").value);
  element("token").value = "";
  element("access").hidden = true;
  show();
});
addEventListener("hashchange", show);
show();
