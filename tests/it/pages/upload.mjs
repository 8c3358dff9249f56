// Drives the example page in a real browser. Arguments: the page, the file to upload, and a file that is written once
// the run is under way, so that the test can restart the service. Prints what the page showed as JSON.
import { writeFileSync } from "node:fs";
import { browsing } from "./browser.mjs";

const [page_url, file, under_way] = process.argv.slice(2);

await browsing(async (page) => {
  const faults = [];
  page.on("pageerror", (error) => faults.push(String(error)));
  await page.goto(page_url);
  await page.evaluate(() => {
    window.seen = { sent: [], done: [], status: [] };
    const note = (list, value) => { if (list.at(-1) !== value) list.push(value); };
    new MutationObserver(() => {
      note(window.seen.done, document.getElementById("done").value);
      note(window.seen.status, document.getElementById("status").textContent);
    }).observe(document.getElementById("run"), { subtree: true, childList: true, attributes: true, characterData: true });
    new MutationObserver(() => note(window.seen.sent, document.getElementById("sent").value))
      .observe(document.getElementById("sent"), { attributes: true });
  });
  await page.setInputFiles("input[type=file]", file);
  await page.click("button");
  await page.waitForFunction(() => document.getElementById("done").value > 0, null, { timeout: 120_000 });
  writeFileSync(under_way, "");
  await page.waitForFunction(() => document.getElementById("status").textContent === "succeeded", null, { timeout: 240_000 });
  const seen = await page.evaluate(() => window.seen);
  const links = await page.$$eval("#files a", (links) => links.map((link) => [link.textContent, link.href]));
  if (process.env.AFTERLOAD_TEST_SCREENSHOT) await page.screenshot({ path: process.env.AFTERLOAD_TEST_SCREENSHOT });
  console.log(JSON.stringify({ ...seen, links, faults }));
});
