"""The generator: unified parameters in, a backend's flags and files out. A thin face over rendering and manifests.

Its API is `tandem.generator.api`.
"""
