// The dashboard works without this file. With it, pages follow their data, links of `afterload ui` sign in by themselves,
// and empty fields of a form count as not given.
"use strict";

// The pause between two looks. It grows while nothing changes.
const FIRST_PAUSE = 1000;
const LONGEST_PAUSE = 5000;

const isSame = (one, other) => one.isEqualNode(other);

/** True while an update would disturb: somebody types, has chosen or selected something, or does not look. */
function isBusy(main) {
  if (document.hidden) return true;
  const selection = getSelection();
  if (selection && !selection.isCollapsed && main.contains(selection.anchorNode)) return true;
  const active = document.activeElement;
  if (active && main.contains(active) && active.matches("input, select, textarea")) return true;
  return [...main.querySelectorAll("input, textarea, select")].some((field) => {
    if (field.type === "hidden") return false;
    if (field.type === "checkbox") return field.checked !== field.defaultChecked;
    if (field.type === "file") return field.files.length > 0;
    if (field.localName === "select") return [...field.options].some((option) => option.selected !== option.defaultSelected) && field.selectedIndex > 0;
    return field.value !== field.defaultValue;
  });
}

/** Changes a node so that it equals another one, and leaves alone what is equal already. */
function morph(old, fresh) {
  if (isSame(old, fresh)) return;
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.id !== fresh.id) {
    old.replaceWith(document.importNode(fresh, true));
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    // Whether a panel is open is up to the reader.
    if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  after.forEach((child, index) => {
    if (index < before.length) morph(before[index], child);
    else old.append(document.importNode(child, true));
  });
  before.slice(after.length).forEach((child) => child.remove());
}

/** Takes over the parts of a page that have changed. Parts that come or go replace the whole content. */
function update(main, page) {
  const fresh = page.getElementById("main");
  if (!fresh) return;
  document.title = page.title;
  const ids = (root) => [...root.querySelectorAll("[data-part]")].map((part) => part.id).join();
  if (ids(main) !== ids(fresh)) {
    morph(main, fresh);
    return;
  }
  for (const part of fresh.querySelectorAll("[data-part]")) morph(document.getElementById(part.id), part);
}

async function follow(main) {
  let etag = null;
  let pause = FIRST_PAUSE;
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, pause));
    if (isBusy(main)) {
      pause = FIRST_PAUSE;
      continue;
    }
    try {
      const answer = await fetch(location.href, { headers: etag ? { "If-None-Match": etag } : {}, redirect: "error", cache: "no-store" });
      if (answer.status === 200) {
        const text = await answer.text();
        if (isBusy(main)) continue;
        etag = answer.headers.get("etag");
        update(main, new DOMParser().parseFromString(text, "text/html"));
        pause = FIRST_PAUSE;
        continue;
      }
    } catch {
      // The service restarts, or the session has ended. What is shown stays.
    }
    pause = Math.min(pause * 1.5, LONGEST_PAUSE);
  }
}

/** Signs in with the code behind `#`, which is then taken out of the address. */
function enter(form) {
  const code = location.hash.slice(1);
  if (!code) return;
  history.replaceState(null, "", location.pathname + location.search);
  form.elements.code.value = decodeURIComponent(code);
  form.requestSubmit();
}

document.addEventListener("formdata", (event) => {
  const form = event.target;
  if (!form.matches("form.params")) return;
  for (const field of form.elements) {
    if (field.name && !field.required && field.value === "" && field.defaultValue === "") event.formData.delete(field.name);
  }
});

const main = document.getElementById("main");
const form = document.querySelector("form[data-enter]");
if (form) enter(form);
if (main && main.hasAttribute("data-live")) follow(main);
