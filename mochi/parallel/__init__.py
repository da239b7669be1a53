"""One generation over all GPUs: a group of processes, and what each of them does differently from a single device.

The owner's side: `group` (start, requests, cancel, failure, end), `spawn`, `environment`, `settings`, `remote` (the
models that live in a group). A rank's side: `entry`, `watch`, `worker`, `rank` (what can be asked of it), and the
parallelism itself: `split`, `mesh`, `ulysses`, `dit`, `weights`, `vae`.
"""
