"""Benchmarks: what a promise costs, measured on real processes. No figure is written by hand.

`python -m bench` runs all and writes docs/benchmarks.json and docs/benchmarks.md. Times on a shared machine mean
little; compare ratios of one run, and processor time per request.

`custodian` renewals over HTTPS, with short and long histories side by side · `ledgers` what else could grow: starting,
proofs, views, copies of the log · `deployment` one custodian process · `fleet` enclaves that only renew · `history`
years of use, made in minutes, and `laying`, which writes them in bulk · `report` the page.

The data plane: `data_plane` a lent model (`lent`), the model alone (`bare`), other servers (`peer`, `peers/`) and an
enclave without some of its pieces (`pieces`) take turns · `load` the generator that asks all of them, `pace` when it
asks, `served` one measurement, `hold` an enclave at its limit for long, `graphs` the models, `inference_bodies` the
requests · `predecessor` and `fresh` what its metering cost · `targets` · `data_plane_page` and `tables` its part of
the page.

`loading` a sealed model and the same one alone, each loaded by a process of its own (`loader`) · `sealing` beside the
disk and the cipher · `memory` and `processes` what is seen of others from outside · `loading_page` their part of the
page · `plots` its charts, drawn by `chart`.
"""
