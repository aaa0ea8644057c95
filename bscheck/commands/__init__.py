"""The commands of ``bscheck``: one module each, whose ``add`` tells the parser about it.

A command's ``lines`` takes the parsed arguments and yields what is printed, line by line; an integer among the lines
is the exit code. Whatever is heavy is imported there, not at a module's head: the parser knows every command.
"""
