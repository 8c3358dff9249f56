// A web application in one file, without dependencies (Node.js 18 or newer), that lets its users upload a file and
// watch what becomes of it. The API key stays here; the page gets nothing but the run's `watch_url`.
//
//   AFTERLOAD_KEY=al_… node server.mjs
//
// AFTERLOAD_URL (http://127.0.0.1:8080), PIPELINE (contacts-import) and PORT (3000) may be set.

import { createReadStream } from "node:fs";
import { createServer, request } from "node:http";
import { fileURLToPath } from "node:url";

const { AFTERLOAD_URL = "http://127.0.0.1:8080", AFTERLOAD_KEY, PIPELINE = "contacts-import", PORT = "3000" } =
  process.env;
if (!AFTERLOAD_KEY) {
  console.error("set AFTERLOAD_KEY; `afterload key new --name page --scope runs:write:" + PIPELINE + "` makes one");
  process.exit(2);
}
const page = fileURLToPath(new URL("index.html", import.meta.url));

// The browser's form goes through as it comes, so that a file of any size needs no memory here.
function upload(incoming, answer) {
  const target = new URL(`/v1/pipelines/${PIPELINE}/runs`, AFTERLOAD_URL);
  const headers = { authorization: `Bearer ${AFTERLOAD_KEY}`, "content-type": incoming.headers["content-type"] ?? "" };
  if (incoming.headers["content-length"]) headers["content-length"] = incoming.headers["content-length"];
  const outgoing = request(target, { method: "POST", headers }, (response) => {
    answer.writeHead(response.statusCode, { "content-type": response.headers["content-type"] });
    response.pipe(answer);
  });
  outgoing.on("error", (error) => {
    if (answer.headersSent) return answer.destroy();
    answer.writeHead(502, { "content-type": "application/json" });
    answer.end(JSON.stringify({ code: "service_unreachable", detail: `afterload does not answer: ${error.message}` }));
  });
  incoming.on("aborted", () => outgoing.destroy());
  incoming.pipe(outgoing);
}

const server = createServer((incoming, answer) => {
  if (incoming.method === "POST" && incoming.url === "/upload") return upload(incoming, answer);
  if (incoming.method === "GET" && incoming.url === "/") {
    answer.writeHead(200, { "content-type": "text/html; charset=utf-8" });
    return createReadStream(page).pipe(answer);
  }
  answer.writeHead(404).end();
});
server.listen(Number(PORT), "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}/`));
