
"use strict";
(() => {
  const task = JSON.parse(document.getElementById("task").textContent);
  const part = (id) => document.getElementById(id);
  const answers = [...document.querySelectorAll(".answers button")];
  const keys = { 1: "shows", 2: "does-not", 3: "cannot-tell" };
  const words = { shows: "shows it", "does-not": "does not", "cannot-tell": "cannot tell" };
  let state = null; // {rater, started_at, labels}
  let at = 0;
  let seen = false; // the picture at `at` is on the screen: nobody labels what has not been shown
  let storage = "";

  const complain = (text) => {
    part("trouble").textContent = text;
    part("trouble").hidden = !text;
  };
  const place = () => `erasure-audit/labels/${task.task}/${state.rater.toLocaleLowerCase("en")}`;

  const keep = () => {
    try {
      localStorage.setItem(place(), JSON.stringify(state));
    } catch {
      storage = "This browser does not keep labels: do not close the page before you have saved them.";
      complain(storage);
    }
  };

  const kept = () => {
    try {
      const found = JSON.parse(localStorage.getItem(place()));
      const known = new Set(task.pictures.map((picture) => picture.id));
      const good = Object.entries(found.labels).filter(([id, label]) => known.has(id) && Object.hasOwn(words, label));
      return { ...state, started_at: found.started_at, labels: Object.fromEntries(good) };
    } catch {
      return null;
    }
  };

  const onScreen = (is) => {
    seen = is;
    part("frame").setAttribute("aria-busy", String(!is));
  };

  const show = (id) => {
    for (const other of ["start", "work", "done"]) part(other).hidden = other !== id;
  };

  const file = (index) => {
    const picture = task.pictures[index];
    return picture && picture.file ? picture.file.split("/").map(encodeURIComponent).join("/") : null;
  };

  const draw = () => {
    const picture = task.pictures[at];
    const address = file(at);
    onScreen(address === null);
    complain(storage);
    show("work");
    const count = Object.keys(state.labels).length;
    part("place").textContent = `Picture ${at + 1} of ${task.pictures.length}`;
    part("bar").value = count;
    part("question").textContent = `Does it show: ${picture.phrase}?`;
    part("picture").hidden = address === null;
    part("withheld").hidden = address !== null;
    if (address === null) {
      part("withheld").textContent = "This picture is withheld because it could not be blurred: choose Cannot tell.";
      part("picture").removeAttribute("src");
    } else {
      part("picture").alt = `Picture ${at + 1}`;
      part("picture").src = address;
    }
    for (const button of answers) {
      button.setAttribute("aria-pressed", String(state.labels[picture.id] === button.dataset.label));
      button.disabled = false;
    }
    part("back").disabled = at === 0;
    part("next").disabled = !(picture.id in state.labels);
    const following = file(at + 1);
    if (following) new Image().src = following;
  };

  const finish = () => {
    const missing = task.pictures.findIndex((picture) => !(picture.id in state.labels));
    if (missing >= 0) {
      at = missing;
      draw();
      return;
    }
    at = task.pictures.length;
    const given = Object.values(state.labels);
    part("counts").textContent = Object.entries(words)
      .map(([label, word]) => `${given.filter((one) => one === label).length} ${word}`)
      .join(", ");
    show("done");
    part("ready").focus();
  };

  const go = (index) => {
    at = Math.max(0, index);
    if (at < task.pictures.length) draw();
    else finish();
  };

  const label = (answer) => {
    if (!state || part("work").hidden || !seen) return;
    state.labels[task.pictures[at].id] = answer;
    keep();
    go(at + 1);
  };

  const save = () => {
    const labels = Object.fromEntries(task.pictures.map((picture) => [picture.id, state.labels[picture.id]]));
    const saved = {
      format: task.format, version: task.version, run_id: task.run_id, task: task.task, rater: state.rater,
      started_at: state.started_at, saved_at: new Date().toISOString(), labels,
    };
    const link = document.createElement("a");
    const address = URL.createObjectURL(new Blob([JSON.stringify(saved, null, 1)], { type: "application/json" }));
    link.href = address;
    link.download = `labels-${state.rater.replace(/[^\p{L}\p{N}._-]+/gu, "-").replace(/^[.-]+/, "") || "rater"}.json`;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
    part("saved").textContent = `Saved as ${link.download} in your downloads.`;
  };

  part("start").addEventListener("submit", (event) => {
    event.preventDefault();
    const rater = part("name").value.trim().replace(/\s+/g, " ");
    if (!rater) return;
    state = { rater, started_at: new Date().toISOString(), labels: {} };
    state = kept() || state;
    part("rater").textContent = rater;
    keep();
    part("name").blur();
    finish();
  });
  part("picture").addEventListener("error", () => {
    for (const button of answers) button.disabled = true;
    complain(`The file of picture ${at + 1} is missing or damaged: copy the whole folder again, then reload this page.`);
  });
  part("picture").addEventListener("load", () => onScreen(true));
  for (const button of answers) button.addEventListener("click", () => label(button.dataset.label));
  part("back").addEventListener("click", () => go(at - 1));
  part("again").addEventListener("click", () => go(at - 1));
  part("next").addEventListener("click", () => go(at + 1));
  part("save").addEventListener("click", save);
  document.addEventListener("keydown", (event) => {
    if (!state || event.ctrlKey || event.metaKey || event.altKey || event.repeat || !part("start").hidden) return;
    if (Object.hasOwn(keys, event.key)) label(keys[event.key]);
    else if (event.key === "ArrowLeft") go(at - 1);
    else if (event.key === "ArrowRight" && !part("next").disabled && !part("work").hidden) go(at + 1);
    else return;
    event.preventDefault();
  });
})();
