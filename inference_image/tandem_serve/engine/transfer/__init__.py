"""The hand-off of KV from a prefill worker to a decode worker: identity, bytes, lease, pull."""
