// The browser of the tests, with a profile of its own that is gone afterwards.
import { createRequire } from "node:module";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const require = createRequire(join(process.env.AFTERLOAD_TEST_NODE, "package.json"));
const { chromium } = require("playwright-core");

export async function browsing(work, options = {}) {
  const profile = mkdtempSync(join(tmpdir(), "afterload-browser-"));
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.AFTERLOAD_TEST_CHROMIUM,
    headless: true,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync"],
    ...options,
  });
  try {
    await work(await browser.newPage());
  } finally {
    await browser.close();
    rmSync(profile, { recursive: true, force: true });
  }
}
