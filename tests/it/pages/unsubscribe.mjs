// Follows a link to unsubscribe on a small phone, by keyboard. Argument: its address. Prints as JSON what the pages showed.
import { browsing } from "./browser.mjs";

const look = () => ({
  heading: document.querySelector("h1").textContent,
  lang: document.documentElement.lang,
  too_wide: document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth,
});

await browsing(async (page) => {
  await page.setViewportSize({ width: 320, height: 568 });
  await page.goto(process.argv[2]);
  const seen = [await page.evaluate(look)];
  const button = page.getByRole("button", { name: "Unsubscribe" });
  await page.keyboard.press("Tab");
  seen[0].focused = await button.evaluate((element) => element === document.activeElement);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "You are unsubscribed" }).waitFor();
  seen.push(await page.evaluate(look));
  console.log(JSON.stringify(seen));
});
