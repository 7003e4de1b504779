"use strict";
// Whatever comes from the gateway is set as text: names and reasons are others' words.
const byId = (id) => document.getElementById(id);
const WORDS = { verified: "verified", refused: "refused: nothing is sent to it", unreachable: "unreachable" };
const TEES = { sev_snp: "AMD SEV-SNP", tdx: "Intel TDX", sgx: "Intel SGX", nitro: "AWS Nitro", tpm: "TPM 2.0", simulated: "SIMULATED" };

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
    fact(list, "Instance", enclave.instance);
    fact(list, "Verified", `${ago(enclave.verified_at_ms, now)}; good until ${new Date(enclave.valid_until_ms).toLocaleString()}`);
  }
  const latency = enclave.latency_ms === undefined ? "" : `, ${enclave.latency_ms.toFixed(1)} ms each of late`;
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

let open = new Set();
function show(status) {
  byId("simulated").hidden = !status.simulated;
  byId("lost").hidden = status.receipts_lost === 0;
  byId("lost").textContent = `${status.receipts_lost.toLocaleString()} receipts could not be kept: see the gateway's log`;
  byId("who").textContent = `${status.consumer}, a consumer of ${status.borrower}; policy ${status.policy_version}; custodian ${status.custodian}`;
  byId("how").textContent = `curl ${location.origin}/v2/models/MODEL\ncurl ${location.origin}/v2/models/MODEL/infer -d '{"inputs": [...]}'`;
  byId("receipts").textContent = `receipts kept since the gateway began: ${status.receipts_kept.toLocaleString()}`;
  byId("moment").textContent = `as of ${new Date(status.now_ms).toLocaleTimeString()}`;
  const place = byId("enclaves");
  open = new Set([...place.querySelectorAll("article")].filter((one) => one.querySelector("details[open]")).map((one) => one.dataset.url));
  const cards = status.enclaves.map((enclave) => {
    const one = card(enclave, status.now_ms), more = one.querySelector("details");
    one.dataset.url = enclave.enclave;
    if (more && open.has(enclave.enclave)) more.open = true;
    return one;
  });
  place.replaceChildren(...cards);
}

async function look() {
  try {
    const answer = await fetch("/aigovtool/status", { cache: "no-store" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    show(await answer.json());
  } catch (error) {
    byId("lost").hidden = false;
    byId("lost").textContent = "the gateway does not answer: what stands below is of before";
  }
}

look();
setInterval(look, 2000);
