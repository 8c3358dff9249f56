// Takes a picture of each page of the dashboard. Arguments: the link that signs in, and the folder for the pictures.
import { join } from "node:path";
import { browsing } from "../tests/it/pages/browser.mjs";

const [link, folder] = process.argv.slice(2);
const base = new URL(link).origin;

await browsing(async (page) => {
  await page.setViewportSize({ width: 1280, height: 900 });
  await page.goto(link);
  await page.waitForURL(`${base}/ui/`);
  await page.goto(`${base}/ui/runs`);
  const run = await page.getAttribute("#runs a[href^='/ui/runs/']", "href");
  const pages = { now: "/ui/", runs: "/ui/runs", run, pipelines: "/ui/pipelines", pipeline: "/ui/pipelines/contacts-import" };
  for (const scheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme: scheme });
    for (const [name, path] of Object.entries(pages)) {
      await page.goto(base + path);
      await page.screenshot({ path: join(folder, `${name}-${scheme}.png`), fullPage: true });
      console.log(`${name}-${scheme}.png`);
    }
  }
});
