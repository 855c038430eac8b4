// All requests to the server: with a key, which is stored in this tab's session storage and sent in one header, or
// with the session of a person who signed in, whose cookie no script can read and whose token this page asks for.

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
let token = null; // of the session
let whenRefused = () => {};

export const isSignedIn = () => Boolean(key || token);

export function useKey(secret) {
  key = secret;
  sessionStorage.setItem(STORED, secret);
}

export function forget() {
  key = token = null;
  sessionStorage.removeItem(STORED);
}

/** Use this browser's session, if there is one; returns whether people can sign in here. */
export async function findSession() {
  const response = await send("console/session", { signal: AbortSignal.timeout(15_000) });
  if (!response.ok) return false;
  const session = await response.json();
  if (!key) token = session.csrf_token;
  return session.sign_in;
}

/** End the session of a person who signed in. */
export async function endSession() {
  if (token) await send("console/sign-out", { method: "POST", headers: proof() });
}

/** Call `handler(error)` when the server refuses the key. */
export function onRefused(handler) {
  whenRefused = handler;
}

const address = (path) => new URL(`../${path}`, document.baseURI);
const proof = () => (key ? { authorization: `Bearer ${key}` } : { "x-csrf-token": token });

function failure(status, body, requestId) {
  const details = body?.error ?? {};
  const error = new ApiError(details.message ?? `The server answered ${status}.`, status, details.code, requestId);
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

/** Send a request (GET by default); returns the answer's JSON. Throws ApiError. */
export async function ask(path, { method = "GET", body, timeout_s = method === "GET" ? 15 : 0 } = {}) {
  const headers = proof();
  if (body !== undefined) headers["content-type"] = "application/json";
  const signal = timeout_s ? AbortSignal.timeout(timeout_s * 1000) : undefined;
  const response = await send(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  if (!response.ok) await refuse(response);
  return response.status === 204 ? null : response.json();
}

/** The text of an answer, for downloads. Throws ApiError. */
export async function text(path) {
  const response = await send(path, { headers: proof() });
  if (!response.ok) await refuse(response);
  return response.text();
}

/** POST and read server-sent events: yields the JSON of each. Calls `onStart(requestId)` when the answer begins. */
export async function* stream(path, body, { signal, onStart }) {
  const headers = { ...proof(), "content-type": "application/json" };
  const response = await send(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  const requestId = response.headers.get("x-request-id") ?? "";
  onStart(requestId);
  if (!response.ok) await refuse(response);
  let rest = "";
  for await (const part of chunks(response.body.pipeThrough(new TextDecoderStream()))) {
    const events = (rest + part).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (event.startsWith(":")) continue; // a comment: the server shows that it is there
      const data = event.replace(/^data: ?/, "");
      if (data === "[DONE]") return;
      const parsed = JSON.parse(data);
      if (parsed.error) throw new ApiError(parsed.error.message, 200, parsed.error.code, requestId);
      yield parsed;
    }
  }
}

async function* chunks(readable) { // Safari cannot iterate streams
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

/** Upload a file; calls `onProgress(sent share)`. Uses XMLHttpRequest because fetch reports no progress. */
export function upload(path, file, type, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address(path));
    for (const [name, value] of Object.entries(proof())) request.setRequestHeader(name, value);
    request.setRequestHeader("content-type", type);
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => onProgress(event.loaded / event.total));
    request.addEventListener("error", () => reject(new ApiError("The upload was interrupted. Try again.", 0)));
    request.addEventListener("load", () => {
      if (request.status < 300) resolve(request.response);
      else reject(failure(request.status, request.response, request.getResponseHeader("x-request-id") ?? ""));
    });
    request.send(file);
  });
}
