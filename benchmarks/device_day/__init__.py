"""What a GPU shows about the project: right results first, then times, in one command of a few minutes.

`python -m benchmarks.device_day` runs the parts in turn (`parts.PARTS`); each writes its rows to the results file as it
finds them. On a machine without a GPU the same parts run on the CPU with tiny sizes, which checks this package and
says nothing about speed.
"""
