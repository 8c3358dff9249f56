// Looks at every page of the dashboard in a real browser. Arguments: the link that signs in, a code for a browser without
// JavaScript, and the paths to visit. Prints what it saw as JSON; with AFTERLOAD_TEST_SCREENSHOT=FOLDER it leaves pictures.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { browsing } from "./browser.mjs";

const require = createRequire(join(process.env.AFTERLOAD_TEST_NODE, "package.json"));
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const [link, code, ...paths] = process.argv.slice(2);
const base = new URL(link).origin;
const seen = { faults: [], pages: [], live: {}, without: {} };

/** In the page: whether it is too wide. */
const measure = () => document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth;
const violations = `${axe}; axe.run().then((found) => found.violations.map((rule) => [rule.id, rule.nodes[0].html]))`;

await browsing(async (page) => {
  // Reports of the policy are errors on the console, too.
  page.on("console", (message) => { if (message.type() === "error") seen.faults.push(message.text()); });
  page.on("pageerror", (error) => seen.faults.push(String(error)));
  await page.goto(link);
  await page.waitForURL(`${base}/ui/`);
  for (const [width, height] of [[320, 800], [1280, 900]]) {
    for (const scheme of ["light", "dark"]) {
      await page.setViewportSize({ width, height });
      await page.emulateMedia({ colorScheme: scheme });
      for (const path of paths) {
        await page.goto(base + path);
        await page.evaluate(() => document.querySelectorAll("details").forEach((panel) => { panel.open = true; }));
        seen.pages.push({ path, width, scheme, too_wide: await page.evaluate(measure), violations: await page.evaluate(violations) });
        const folder = process.env.AFTERLOAD_TEST_SCREENSHOT;
        const name = `dashboard${path.split("?")[0].replaceAll("/", "-")}-${scheme}-${width}.png`;
        if (folder) await page.screenshot({ path: join(folder, name), fullPage: true });
      }
    }
  }
  // A page follows its data, and leaves alone what the reader does meanwhile.
  await page.goto(`${base}/ui/runs`);
  await page.fill("#find", "half a wo");
  await page.evaluate(() => { window.here = true; });
  const headline = await page.textContent("h1");
  const other = await page.context().newPage();
  await other.goto(`${base}/ui/pipelines/greet`);
  await other.fill("#param-note", "from a browser");
  await other.click("form.params button");
  await other.waitForURL(/\/ui\/runs\/01/);
  seen.live.started = await other.textContent("#params");
  await other.close();
  await page.bringToFront();
  await page.waitForFunction((before) => document.querySelector("h1").textContent !== before, headline, { timeout: 60_000 });
  seen.live.kept = await page.evaluate(() => [window.here, document.getElementById("find").value, document.activeElement.id]);
  await page.click(".who button");
  await page.waitForURL(`${base}/ui/enter`);
});

await browsing(async (page) => {
  await page.goto(`${base}/ui/runs`);
  await page.fill("#code", code);
  await page.click("form[data-enter] button");
  await page.waitForURL(`${base}/ui/runs`);
  await page.click("nav a[href='/ui/pipelines']");
  await page.click("main a[href='/ui/pipelines/greet']");
  await page.fill("#param-note", "without JavaScript");
  await page.click("form.params button");
  await page.waitForURL(/\/ui\/runs\/01/);
  seen.without.started = await page.textContent("#params");
  const first = page.url();
  await page.click("form.params button");
  await page.waitForURL((url) => url.href !== first && url.pathname.startsWith("/ui/runs/01"));
  await page.click("nav a[href='/ui/']");
  await page.waitForURL(`${base}/ui/`);
  seen.without.headline = await page.textContent("h1");
}, { javaScriptEnabled: false });

console.log(JSON.stringify(seen));
