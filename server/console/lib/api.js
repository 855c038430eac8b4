// Everything that is asked of the server. The key lives in this tab's session storage and in one header.

const STORED = "loragate-key";

export class ApiError extends Error {
  constructor(message, status, code = "", requestId = "") {
    super(message);
    this.status = status;
    this.code = code;
    this.requestId = requestId;
  }
}

let key = sessionStorage.getItem(STORED);
let whenRefused = () => {};

export const hasKey = () => Boolean(key);

export function useKey(secret) {
  key = secret;
  sessionStorage.setItem(STORED, secret);
}

export function forgetKey() {
  key = null;
  sessionStorage.removeItem(STORED);
}

/** Call `handler(error)` when the server no longer takes the key. */
export function onRefused(handler) {
  whenRefused = handler;
}

const address = (path) => new URL(`../${path}`, document.baseURI);
const bearer = () => ({ authorization: `Bearer ${key}` });

function failure(status, body, requestId) {
  const told = body?.error ?? {};
  const error = new ApiError(told.message ?? `The server answered ${status}.`, status, told.code, requestId);
  if (status === 401) whenRefused(error);
  return error;
}

async function send(path, init) {
  try {
    return await fetch(address(path), init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.", 0);
  }
}

async function refuse(response) {
  const body = await response.json().catch(() => null);
  throw failure(response.status, body, response.headers.get("x-request-id") ?? "");
}

/** GET, or whatever `method` says; returns the JSON of the answer. Throws ApiError. */
export async function ask(path, { method = "GET", body } = {}) {
  const headers = bearer();
  if (body !== undefined) headers["content-type"] = "application/json";
  const response = await send(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  if (!response.ok) await refuse(response);
  return response.json();
}

/** The text of an answer, for files to keep. Throws ApiError. */
export async function text(path) {
  const response = await send(path, { headers: bearer() });
  if (!response.ok) await refuse(response);
  return response.text();
}

/** POST and read server-sent events: yields each one's JSON. `onStart(requestId)` when the answer begins. */
export async function* stream(path, body, { signal, onStart }) {
  const headers = { ...bearer(), "content-type": "application/json" };
  const response = await send(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  const requestId = response.headers.get("x-request-id") ?? "";
  onStart(requestId);
  if (!response.ok) await refuse(response);
  let rest = "";
  for await (const part of chunks(response.body.pipeThrough(new TextDecoderStream()))) {
    const events = (rest + part).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: ?/, "");
      if (data === "[DONE]") return;
      const parsed = JSON.parse(data);
      if (parsed.error) throw new ApiError(parsed.error.message, 200, parsed.error.code, requestId);
      yield parsed;
    }
  }
}

async function* chunks(readable) { // Safari iterates no streams
  const reader = readable.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Send a file; `onProgress(share sent)`. XMLHttpRequest, because fetch does not tell how far it is. */
export function upload(path, file, type, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address(path));
    request.setRequestHeader("authorization", bearer().authorization);
    request.setRequestHeader("content-type", type);
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => onProgress(event.loaded / event.total));
    request.addEventListener("error", () => reject(new ApiError("The upload broke off.", 0)));
    request.addEventListener("load", () => {
      if (request.status < 300) resolve(request.response);
      else reject(failure(request.status, request.response, request.getResponseHeader("x-request-id") ?? ""));
    });
    request.send(file);
  });
}
