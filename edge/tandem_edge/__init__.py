"""What processes share at their edge: router and bundled server towards clients, the operator too for its log lines.

It knows none of them.
"""
