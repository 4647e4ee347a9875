"""Runs the objects of a deployment as processes on this machine.

`plan` turns built objects into frozen process descriptions (pure); `supervisor` keeps those processes running, one
`unit` each, watched by `probe`; `endpoints` tells the router which of them are ready; `up` is the whole way from a file
to an address that answers.
"""
