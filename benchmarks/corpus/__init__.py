"""Graphs to compare elimination orders on, as files that anyone can load.

Each file of `graphs` is a graph in the node-link form of networkx (`node_link_graph(document,
edges="edges")`), with the best order that is known, what it costs, who found it and by what, and a
lower bound. README.md beside them says what costs mean.

    python -m benchmarks.corpus verify     # replays all orders with nothing but the files
    python -m benchmarks.corpus build      # makes the graphs anew from their programs
    python -m benchmarks.corpus improve    # searches on
"""
