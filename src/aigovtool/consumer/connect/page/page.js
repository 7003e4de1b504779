"use strict";
// Whatever comes from the gateway is set as text: names and reasons are others' words.
const byId = (id) => document.getElementById(id);
const WORDS = { verified: "verified", refused: "refused: nothing is sent to it", unreachable: "unreachable" };
const TEES = { "sev-snp": "AMD SEV-SNP", tdx: "Intel TDX", sgx: "Intel SGX", nitro: "AWS Nitro", tpm: "TPM 2.0", simulated: "SIMULATED" };

function made(tag, text, name) {
  const one = document.createElement(tag);
  if (text !== undefined) one.textContent = text;
  if (name) one.className = name;
  return one;
}

function ago(from, now) {
  const s = Math.round(Math.abs(now - from) / 1000);
  const words = s < 120 ? `${s} s` : s < 7200 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`;
  return from <= now ? `${words} ago` : `in ${words}`;
}

function units(vector) {
  const named = Object.entries(vector).filter(([, left]) => left > 0);
  return named.length ? named.map(([unit, left]) => `${left.toLocaleString()} ${unit}`).join(", ") : "0";
}

function fact(list, name, value) {
  if (value === undefined || value === "") return;
  list.append(made("dt", name), made("dd", value));
}

function models(enclave) {
  const list = made("ul");
  for (const one of enclave.models || []) {
    const item = made("li"), left = one.remaining ? `${units(one.remaining)} left` : "what is left is not known yet";
    item.append(made("strong", one.model), made("span", left), made("code", one.manifest));
    list.append(item);
  }
  return list;
}

function card(enclave, now) {
  const one = made("article"), list = made("dl");
  one.append(made("h2", enclave.enclave), made("p", WORDS[enclave.state] || enclave.state, `state ${enclave.state}`));
  fact(list, "Why", enclave.why);
  fact(list, "What to do", enclave.fix);
  if (enclave.tee) {
    const memory = enclave.memory_encryption ? "memory encrypted" : "memory NOT encrypted";
    fact(list, "Platform", `${TEES[enclave.tee] || enclave.tee}, ${enclave.tee === "simulated" ? "protects nothing" : memory}`);
    if (enclave.sealed) fact(list, "Asked", "sealed, as behind a load balancer that ends TLS");
    fact(list, "Instance", enclave.instance);
    fact(list, "Verified", `${ago(enclave.verified_at_ms, now)}; good until ${new Date(enclave.valid_until_ms).toLocaleString()}`);
  }
  const latency = enclave.latency_p50_ms === undefined ? "" : `, half within ${enclave.latency_p50_ms.toFixed(1)} ms, 99% within ${enclave.latency_p99_ms.toFixed(1)} ms`;
  fact(list, "Answers", `${enclave.answered.toLocaleString()}${latency}; ${enclave.refused.toLocaleString()} refused, ${enclave.failed.toLocaleString()} failed, ${enclave.under_way} under way`);
  for (const text of enclave.warnings || []) fact(list, "Warning", text);
  one.append(list);
  if (enclave.models && enclave.models.length) one.append(models(enclave));
  const names = Object.entries(enclave.measurements || {});
  if (names.length) {
    const more = made("details"), inner = made("dl");
    more.append(made("summary", "Measurements"), inner);
    for (const [name, value] of names) fact(inner, name, value);
    one.append(more);
  }
  return one;
}

function line(one) {
  const item = made("li"), why = one.why || (one.seen ? `${TEES[one.seen.tee] || one.seen.tee}, instance ${one.seen.instance.slice(0, 12)}` : "");
  item.append(made("time", new Date(one.at_ms).toLocaleString()), made("span", one.event, `state ${one.event}`), made("span", one.enclave || "this gateway"));
  if (why) item.append(made("small", why));
  return item;
}

// What is shown is changed in place: what somebody has selected, opened or reached by keyboard stays so.
function become(old, fresh) {
  if (old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.className !== fresh.className) old.className = fresh.className;
  const before = [...old.childNodes], after = [...fresh.childNodes];
  after.forEach((child, index) => (index < before.length ? become(before[index], child) : old.append(child)));
  before.slice(after.length).forEach((child) => child.remove());
}

function fill(id, children) {
  const place = byId(id), fresh = place.cloneNode(false);
  fresh.append(...children);
  become(place, fresh);
}

function say(id, text) {
  fill(id, text ? [document.createTextNode(text)] : []);
}

function show(status) {
  const verified = status.enclaves.filter((one) => one.state === "verified").length, all = status.enclaves.length;
  byId("simulated").hidden = !status.simulated;
  byId("lost").hidden = status.receipts_lost === 0;
  say("lost", status.receipts_lost ? `${status.receipts_lost.toLocaleString()} receipts could not be kept: see the gateway's log` : "");
  say("who", `${status.consumer}, a consumer of ${status.borrower}; policy ${status.policy_version}; custodian ${status.custodian}`);
  say("sum", `${verified} of ${all} enclaves verified`);
  document.title = `${verified ? "" : "NOT VERIFIED: "}aigovtool connect`;
  say("how", `curl ${location.origin}/v2/models/MODEL\ncurl ${location.origin}/v2/models/MODEL/infer -d '{"inputs": [...]}'`);
  say("receipts", `receipts kept since the gateway began: ${status.receipts_kept.toLocaleString()}`);
  say("moment", `as of ${new Date(status.now_ms).toLocaleTimeString()}`);
  fill("enclaves", status.enclaves.map((enclave) => card(enclave, status.now_ms)));
  fill("seen", [...status.seen].reverse().map(line));
}

async function look() {
  try {
    const answer = await fetch("/aigovtool/status", { cache: "no-store" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    show(await answer.json());
  } catch (error) {
    byId("lost").hidden = false;
    say("lost", "the gateway does not answer: what stands below is of before");
    document.title = "NO ANSWER: aigovtool connect";
  }
}

look();
setInterval(look, 2000);
