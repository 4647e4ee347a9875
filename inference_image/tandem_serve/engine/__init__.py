"""The model side of the server: loading, scheduling, KV cache, sampling, KV hand-off."""
