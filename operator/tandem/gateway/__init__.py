"""The router: one OpenAI-compatible address in front of the workers of a deployment.

A request comes in at `proxy`, is understood by `body` and `protocol`, is sent by `attempts`, `legs` and `upstream` to
workers that `targets` chooses, and its answer goes back through `relay`. What the router knows of the workers is one
frozen `fleet.Fleet`, kept up to date by `discovery`. `balance`, `pairing`, `protocol`, `events` and `retry` are pure.
"""
