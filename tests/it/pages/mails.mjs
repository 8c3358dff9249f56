// Looks at mails in a real browser, as a phone and a desktop show them, light and dark, and as a mail program shows them
// that reads no <style>. Arguments: HTML files. Prints as JSON what was measured of each; with AFTERLOAD_TEST_SCREENSHOT=FOLDER
// it leaves pictures there.
import { readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { browsing } from "./browser.mjs";

/** In the page: whether it is too wide, its text that is hard to read or small, and the height of its smallest button. */
function measure() {
  const numbers = (color) => color.match(/[\d.]+/g).map(Number);
  const over = ([r, g, b, a = 1], below) => [r, g, b].map((value, at) => value * a + below[at] * (1 - a));
  const behind = (element) => {
    if (!element) return [255, 255, 255];
    const own = numbers(getComputedStyle(element).backgroundColor);
    return own[3] === 0 ? behind(element.parentElement) : over(own, behind(element.parentElement));
  };
  const light = (color) => {
    const [r, g, b] = color.map((value) => value / 255).map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ground = behind(element);
    const [less, more] = [light(over(numbers(style.color), ground)), light(ground)].sort((a, b) => a - b);
    texts.push({ text: walker.currentNode.data.trim().slice(0, 40), contrast: (more + 0.05) / (less + 0.05), size: parseFloat(style.fontSize) });
  }
  const { scrollWidth, clientWidth } = document.scrollingElement;
  const buttons = [...document.querySelectorAll(".button a")].map((button) => button.getBoundingClientRect().height);
  return { ground: light(behind(document.body)), too_wide: scrollWidth - clientWidth, texts, buttons };
}

await browsing(async (page) => {
  const seen = [];
  for (const file of process.argv.slice(2)) {
    const html = readFileSync(file, "utf8");
    for (const [width, height] of [[390, 844], [1200, 800]]) {
      for (const scheme of ["light", "dark"]) {
        for (const styles of [true, false]) {
          await page.setViewportSize({ width, height });
          await page.emulateMedia({ colorScheme: scheme });
          await page.setContent(styles ? html : html.replace(/<style[^]*?<\/style>/g, ""));
          seen.push({ mail: basename(file, ".html"), width, scheme, styles, ...(await page.evaluate(measure)) });
          const folder = process.env.AFTERLOAD_TEST_SCREENSHOT;
          const name = [basename(file, ".html"), width, scheme, styles ? "" : "bare"].filter(Boolean).join("-");
          if (folder) await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true });
        }
      }
    }
  }
  console.log(JSON.stringify(seen));
});
