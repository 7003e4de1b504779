"""`aigovtool demo`: the whole story with all real parts, told as it happens.

`verb` the command · `story` the scenes, each of which checks what it shows · `stage` the processes and commands
behind them · `digits` the model and the pictures. Every step is a command that a reader can type.
"""
