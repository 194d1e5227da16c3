// What the page asks the server; every refusal is shown, in the server's words.

// What a person can put right, as opposed to a fault of the page.
export class Refused extends Error {
  constructor(message, status = null, answer = {}) {
    super(message);
    this.status = status;
    this.answer = answer;
  }
}

async function ask(method, path, body) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Refused(
      "The workbench does not answer. Is `tomopicker serve` still running, and the ssh tunnel open? "
      + "What you did up to here is saved.", 0);
  }
  if (response.ok) return response;
  let answer = {};
  try {
    answer = await response.json();
  } catch {
    answer = { error: `The server answered ${response.status}.` };
  }
  throw new Refused(answer.error ?? `The server answered ${response.status}.`, response.status, answer);
}

export const getJSON = async (path) => (await ask("GET", path)).json();
export const postJSON = async (path, body = {}) => (await ask("POST", path, body)).json();
export const deleteJSON = async (path) => (await ask("DELETE", path)).json();

export async function getPicture(path) {
  return createImageBitmap(await (await ask("GET", path)).blob());
}
