// Node's fetch. Browsers' and its own rules forbid it to offer another protocol or to ask before it sends.
//
//   node client.mjs URL PLAN    (see tests/clients/programs/README.md; the certificate in NODE_EXTRA_CA_CERTS)

import { readFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";

const [, , url, plan] = process.argv;

async function* slowly(body) {
  for (let start = 0; start < body.length; start += 6) {
    await pause(200);
    yield body.subarray(start, start + 6);
  }
}

async function answer(address, manner, path) {
  const body = readFileSync(path);
  const headers = { "Content-Type": "application/json" };
  const options = { method: "POST", headers, body };
  if (manner === "gzip") headers["Content-Encoding"] = "gzip";
  if (manner === "retry") headers["Idempotency-Key"] = path;
  if (manner === "slow") Object.assign(options, { body: slowly(body), duplex: "half" });
  const bytes = async (response) => Buffer.from(await response.arrayBuffer());
  let response = await fetch(address, options);
  let first = Buffer.alloc(0);
  if (manner === "retry") {
    first = await bytes(response);
    response = await fetch(address, options);
    for (let tries = 0; tries < 3 && response.status === 429; tries++) {
      await bytes(response);
      await pause(1000 * Number(response.headers.get("retry-after")));
      response = await fetch(address, options);
    }
  }
  return [response.status, (await bytes(response)).toString("base64"), first.toString("base64")];
}

for (const line of readFileSync(plan, "utf8").trim().split("\n")) {
  const [name, manner, path, body] = line.split("\t");
  if (["offer", "expect"].includes(manner)) {
    console.log([name, "-", "", ""].join("\t"));
    continue;
  }
  try {
    console.log([name, ...(await answer(url + path, manner, body))].join("\t"));
  } catch (error) {
    console.log([name, "error", Buffer.from(`${error} ${error.cause}`).toString("base64"), ""].join("\t"));
  }
}
