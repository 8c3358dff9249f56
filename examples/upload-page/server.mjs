// A web application in one file, without dependencies (Node.js 18 or newer), that lets its users upload a file and
// watch what becomes of it. The API key stays here; the page gets nothing but the run's `watch_url`.
//
//   AFTERLOAD_KEY=al_… node server.mjs
//
// AFTERLOAD_URL (http://127.0.0.1:8080), PIPELINE (contacts-import) and PORT (3000) may be set.

import { randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { createServer, request } from "node:http";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";

const { AFTERLOAD_URL = "http://127.0.0.1:8080", AFTERLOAD_KEY, PIPELINE = "contacts-import", PORT = "3000" } =
  process.env;
if (!AFTERLOAD_KEY) {
  console.error("set AFTERLOAD_KEY; `afterload key new --name page --scope runs:write:" + PIPELINE + "` makes one");
  process.exit(2);
}
const page = fileURLToPath(new URL("index.html", import.meta.url));
const authorization = `Bearer ${AFTERLOAD_KEY}`;
// Browsers name these types after the programs that are installed.
const TYPES = { ".csv": "text/csv", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp" };

function refuse(answer, status, code, detail) {
  if (answer.headersSent) return answer.destroy();
  answer.writeHead(status, { "content-type": "application/json", connection: "close" });
  answer.end(JSON.stringify({ code, detail }));
}

// The only param of the pipeline that takes one file: its name and the types that it accepts.
async function fileParam() {
  const response = await fetch(new URL(`/v1/pipelines/${PIPELINE}`, AFTERLOAD_URL), { headers: { authorization } });
  if (!response.ok) throw new Error(`it answers ${response.status} for the pipeline`);
  const found = Object.entries((await response.json()).params).filter(([, param]) => param.type === "file");
  if (found.length !== 1) throw new Error(`${PIPELINE} has not exactly one file param`);
  const [[name, { accept = [] }]] = found;
  return { name, accept };
}

// The bytes alone come from the visitor. A form or JSON of the visitor could hold other params, with our key.
async function upload(incoming, answer, file) {
  const name = (file.get("name") ?? "").replace(/[\u0000-\u001f"\\/]/g, "_") || "file";
  const type = TYPES[extname(name).toLowerCase()] ?? (incoming.headers["content-type"] ?? "").split(";")[0].trim().toLowerCase();
  const param = await fileParam();
  const accepted = param.accept.length === 0 || param.accept.some((known) => known === type || known === type.split("/")[0] + "/*");
  if (!accepted) {
    incoming.resume();
    return refuse(answer, 415, "type_not_accepted", `expected a file of type ${param.accept.join(", ")}`);
  }
  const boundary = randomUUID();
  const disposition = `form-data; name="${param.name}"; filename*=UTF-8''${encodeURIComponent(name).replaceAll("'", "%27")}`;
  const media = /^[a-z0-9.+-]+\/[a-z0-9.+-]+$/.test(type) ? type : "application/octet-stream";
  const head = Buffer.from(`--${boundary}\r\ncontent-disposition: ${disposition}\r\ncontent-type: ${media}\r\n\r\n`);
  const end = Buffer.from(`\r\n--${boundary}--\r\n`);
  const headers = { authorization, "content-type": `multipart/form-data; boundary=${boundary}` };
  const length = Number(incoming.headers["content-length"]);
  if (Number.isSafeInteger(length)) headers["content-length"] = head.length + length + end.length;
  // The file goes through as it comes, so that a file of any size needs no memory here.
  const outgoing = request(new URL(`/v1/pipelines/${PIPELINE}/runs`, AFTERLOAD_URL), { method: "POST", headers }, (response) => {
    answer.writeHead(response.statusCode, { "content-type": response.headers["content-type"] });
    response.pipe(answer);
  });
  outgoing.on("error", (error) => refuse(answer, 502, "service_unreachable", `afterload does not answer: ${error.message}`));
  incoming.on("aborted", () => outgoing.destroy());
  outgoing.write(head);
  incoming.pipe(outgoing, { end: false });
  incoming.on("end", () => outgoing.end(end));
}

const server = createServer((incoming, answer) => {
  const url = new URL(incoming.url, "http://page");
  if (incoming.method === "POST" && url.pathname === "/upload") {
    return upload(incoming, answer, url.searchParams).catch((error) => refuse(answer, 502, "service_unreachable", error.message));
  }
  if (incoming.method === "GET" && url.pathname === "/") {
    answer.writeHead(200, { "content-type": "text/html; charset=utf-8" });
    return createReadStream(page).pipe(answer);
  }
  answer.writeHead(404).end();
});
server.listen(Number(PORT), "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}/`));
