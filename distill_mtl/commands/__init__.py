"""One file for each command: its arguments, and the call that they become.

What a command needs is imported when it runs, so that help comes at once.
"""
